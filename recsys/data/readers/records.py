"""Text files as whole records of known encoding: what has to be decided for a file and not for a piece of it.

A record ends at a line end outside quotes, so a quoted value may hold line breaks. The encoding is UTF-8 unless more
characters of the file are broken in it than hold; then it is Windows-1252, or latin-1 where a byte means nothing there.
"""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np

from recsys.errors import UserError

MARK = "\ufdd0"  # stands for a byte that is not of the encoding; Unicode promises never to give it a meaning
_LONGEST = 64 << 20
TAIL = 1 << 14
_UNDEFINED = (0x81, 0x8D, 0x8F, 0x90, 0x9D)  # bytes without a meaning in Windows-1252
_ESCAPED = re.compile("[\udc80-\udcff]")
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)


def record_ends(data: bytes, delimiter: str | None) -> np.ndarray:
    """Where the records of `data`, which begins with one, end: offsets behind their line ends, [E] int64 ascending.

    Line ends are LF, CRLF and CR; a CR at the very end of `data` does not count, as LF may follow.

    Args:
        delimiter: of a file with quoted values; None where quotes are plain characters. As in pyarrow a quote opens at
            the beginning of a value only, and a doubled one inside quotes is a character.
    """
    codes = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(codes == ord("\n"))
    if b"\r" in data:
        returns = np.flatnonzero(codes[:-1] == ord("\r"))
        ends = np.sort(np.concatenate([ends, returns[codes[returns + 1] != ord("\n")]]))
    if delimiter is not None and b'"' in data:
        opened, where, _ = _quotes(codes, delimiter)
        before = np.searchsorted(where, ends) - 1  # the last change before each line end
        ends = ends[~(np.append(opened, False)[before])]
    return ends + 1


def open_quote(data: bytes, delimiter: str) -> int | None:
    """The offset of the quote that is never closed, in `data` that begins with a record; None where there is none."""
    opened, where, _ = _quotes(np.frombuffer(data, np.uint8), delimiter)
    return int(where[-1]) if len(where) and opened[-1] else None


def _quotes(codes: np.ndarray, delimiter: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The runs of quotes that may change whether a value is inside quotes: whether it is after each, [Q] bool, their
    offsets, and whether it is not whatever was before.

    A run of even length changes nothing: inside quotes they are characters, at the beginning of a value they open and
    close. One of odd length at the beginning of a value opens, or closes what is open (there it follows a delimiter
    inside quotes); elsewhere it closes.
    """
    quotes = np.flatnonzero(codes == ord('"'))
    first = np.flatnonzero(np.diff(quotes, prepend=-2) != 1)
    odd = np.diff(np.append(first, len(quotes))) % 2 == 1
    where = quotes[first[odd]]
    begins = (where == 0) | np.isin(codes[where - 1], np.frombuffer(f"{delimiter}\r\n".encode(), np.uint8))
    toggles = np.cumsum(begins)
    since = toggles - np.maximum.accumulate(np.where(begins, 0, toggles)) if len(toggles) else toggles
    return since % 2 == 1, where, ~begins


def record_chunks(stream: IO[bytes], size: int, delimiter: str | None, *, line: int = 1) -> Iterator[bytes]:
    """Whole records, about `size` bytes at a time; the last may lack its line end.

    Args:
        line: of the file, at which the stream stands.

    Raises:
        UserError: a quote is never closed, or a record is absurdly long.
    """
    rest = b""
    while block := stream.read(size):
        data = rest + block
        cut = _last_end(data, delimiter)
        if cut:
            yield data[:cut]
            line += data.count(b"\n", 0, cut)
        rest = data[cut:]
        if len(rest) > max(_LONGEST, 2 * size):
            raise UserError(f"the record that begins in line {line} has more than {len(rest):,} bytes")
    if delimiter is not None and b'"' in rest and (position := open_quote(rest, delimiter)) is not None:
        line += rest.count(b"\n", 0, position)
        raise UserError(f"the quote that opens in line {line} is never closed")
    if rest:
        yield rest


def _last_end(data: bytes, delimiter: str | None) -> int:
    """The last of `record_ends`, 0 where there is none."""
    if delimiter is None or b'"' not in data:
        return data.rfind(b"\n") + 1 or data.rfind(b"\r", 0, len(data) - 1) + 1
    # Behind a quote that surely closes one need not know what was before: mostly a look at the tail is enough.
    size = TAIL
    while size < len(data):
        tail = data[-size:].lstrip(b'"')  # half a run of quotes tells nothing
        _, where, closes = _quotes(np.frombuffer(tail, np.uint8), delimiter)
        if closes.any():
            known = tail[where[closes.argmax()] + 1 :]
            if len(ends := record_ends(known, delimiter)):
                return len(data) - len(known) + int(ends[-1])
        size *= 8
    ends = record_ends(data, delimiter)
    return int(ends[-1]) if len(ends) else 0


@dataclass
class EncodingTally:
    """What the bytes of a file say of its encoding.

    Attributes:
        valid: characters beyond ASCII that are valid UTF-8.
        broken: bytes that are not.
        undefined: whether there are bytes that Windows-1252 does not know.
    """

    valid: int = 0
    broken: int = 0
    undefined: bool = False

    def add(self, data: bytes) -> None:
        """Count a piece that does not begin or end inside a character."""
        if data.isascii():
            return
        self.undefined |= any(code in data for code in _UNDEFINED)
        try:
            data.decode()
        except UnicodeDecodeError:
            text = data.decode(errors="surrogateescape")
            broken = len(_ESCAPED.findall(text))
            self.broken += broken
            self.valid += sum(not character.isascii() for character in text) - broken
        else:
            self.valid += int((np.frombuffer(data, np.uint8) >= 0xC2).sum())

    @property
    def encoding(self) -> str:
        if self.valid >= self.broken:
            return "utf-8"
        return "latin-1" if self.undefined else "cp1252"

    def remark(self, path: str) -> list[str]:
        """What a person should know of it."""
        if self.encoding == "utf-8":
            return []
        return [f"{path.rpartition('/')[2]} is not UTF-8 ({self.broken:,} bytes are not): read as {self.encoding}"]


def to_utf8(data: bytes, encoding: str) -> tuple[bytes, bool]:
    """UTF-8, and whether bytes that are not of the encoding were replaced by `MARK`."""
    if data.isascii():
        return data, False
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return _ESCAPED.sub(MARK, data.decode(encoding, errors="surrogateescape")).encode(), True
    return (data if encoding == "utf-8" else text.encode()), False


def require_narrow(path: str, head: bytes) -> None:
    """Refuse UTF-16 and UTF-32.

    Raises:
        UserError: the first bytes of a file show one of them.
    """
    if head.startswith(_WIDE) or head.count(0) > len(head) // 8:
        raise UserError(f"{path} is UTF-16 or no text at all; save it as UTF-8")
