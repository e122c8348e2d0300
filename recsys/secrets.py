"""Passwords inside URIs never leave: `mask` stands where text does."""

import re
from typing import Any

# What a URI says of who asks stands before the last @ of its authority; a key that was not escaped may hold a slash.
_USER = re.compile(r"""(?<=://)(?:[^\s/"<>@]*:[^\s"<>]*|[^\s/"<>]*)@""")
_PARAMETER = re.compile(
    r"""([?&;][\w.-]*(?:password|passwd|pwd|secret|token|key|signature|credential|\bsig)[\w.-]*=)[^\s&;"'<>]+""",
    re.IGNORECASE,
)


def mask(text: str) -> str:
    """The text with `***` for whatever URIs in it say of users, passwords and keys."""
    if "://" not in text:
        return text
    return _PARAMETER.sub(r"\1***", _USER.sub("***@", text))


def mask_values(values: Any) -> Any:
    """Plain JSON values, every text in them masked."""
    if isinstance(values, str):
        return mask(values)
    if isinstance(values, dict):
        return {name: mask_values(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [mask_values(value) for value in values]
    return values


def without_secrets(values: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Plain settings without those that hold a secret, and the keys of these, with dots."""
    kept: dict[str, Any] = {}
    left_out: list[str] = []
    for name, value in values.items():
        if isinstance(value, dict):
            kept[name], inner = without_secrets(value)
            left_out += [f"{name}.{key}" for key in inner]
        elif mask_values(value) != (list(value) if isinstance(value, tuple) else value):
            left_out.append(name)
        else:
            kept[name] = value
    return kept, left_out


class MaskedStream:
    """A text stream through which no password gets; in all else the stream itself."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(mask(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
