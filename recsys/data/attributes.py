"""What is known of items besides their titles: genres, category, brand; what requests filter by.

Every attribute is multi-valued: a text such as `Drama|Comedy` is two values. Legend: N items.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.data.cleaning import clean_title
from recsys.data.ids import flatten
from recsys.errors import UserError

SEPARATOR = "|"
_LISTS = pa.list_(pa.string())


@dataclass(frozen=True)
class _Index:
    """Of one attribute: the items of value v are `items[bounds[v] : bounds[v + 1]]`, ascending."""

    numbers: dict[str, int]
    items: np.ndarray
    bounds: np.ndarray


@dataclass(frozen=True)
class Attributes:
    """Values of the items of a catalogue.

    Attributes:
        columns: name → lists of strings, [N+1], empty at 0 (padding) and where nothing is known.
    """

    columns: Mapping[str, pa.ListArray] = field(default_factory=dict)
    _indices: dict[str, _Index] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __bool__(self) -> bool:
        return bool(self.columns)

    @property
    def names(self) -> list[str]:
        return list(self.columns)

    def of(self, items: Iterable[int], names: Iterable[str] | None = None) -> list[dict[str, list[str]]]:
        """The values of items (1..N), name → values; attributes (all, or those named) without any are left out."""
        rows = list(items)
        found: list[dict[str, list[str]]] = [{} for _ in rows]
        for name in self.columns if names is None else names:
            for one, values in zip(found, self.columns[name].take(pa.array(rows, pa.int64())).to_pylist(), strict=True):
                if values:
                    one[name] = values
        return found

    def items_with(self, name: str, values: Iterable[str]) -> tuple[np.ndarray, list[str]]:
        """The items that have at least one of the values, [M] int64 ascending, and the values that no item has.

        Raises:
            UserError: there is no such attribute.
        """
        index = self._index(name)
        codes = {value: index.numbers.get(value) for value in values}
        parts = [index.items[index.bounds[v] : index.bounds[v + 1]] for v in codes.values() if v is not None]
        unknown = [value for value, code in codes.items() if code is None]
        return merge_distinct(parts), unknown

    def require(self, names: Iterable[str]) -> None:
        """
        Raises:
            UserError: one of the names is no attribute.
        """
        for name in names:
            if name not in self.columns:
                known = ", ".join(self.columns) or "none; data.columns.attributes names what to keep of the catalogue"
                raise UserError(f"items have no attribute {name!r}; known: {known}")

    def extend(self, count: int) -> "Attributes":
        """With as many further items, of which nothing is known."""
        further = pa.array([[]] * count, _LISTS)
        return Attributes({name: pa.concat_arrays([column, further]) for name, column in self.columns.items()})

    def warm(self) -> None:
        """Build what filters need now instead of at the first of them."""
        for name in self.columns:
            self._index(name)

    def _index(self, name: str) -> _Index:
        self.require([name])
        if name not in self._indices:
            column = self.columns[name]
            encoded = column.flatten().dictionary_encode()
            codes = encoded.indices.to_numpy()
            owners = np.repeat(np.arange(len(column)), column.value_lengths().to_numpy())
            values = encoded.dictionary.to_pylist()
            self._indices[name] = _Index(
                numbers={value: number for number, value in enumerate(values)},
                items=owners[np.argsort(codes, kind="stable")],
                bounds=np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(values)))]),
            )
        return self._indices[name]

    def write(self, path: Path) -> None:
        """A row for each item, 1..N, a column for each attribute."""
        pq.write_table(pa.table({name: column.slice(1) for name, column in self.columns.items()}), path)

    @classmethod
    def read(cls, path: Path, num_items: int) -> "Attributes":
        """
        Raises:
            UserError: it has another number of items.
        """
        table = pq.read_table(path)
        if len(table) != num_items:
            raise UserError(f"{path} has {len(table)} items instead of {num_items}; make it again")
        return cls.of_items({name: table[name] for name in table.column_names})

    @classmethod
    def of_items(cls, columns: Mapping[str, pa.Array | pa.ChunkedArray]) -> "Attributes":
        """From lists of strings for each item, 1..N; null is no value."""
        padding = pa.array([[]], _LISTS)
        return cls({name: pa.concat_arrays([padding, _dense(column)]) for name, column in columns.items()})


def merge_distinct(parts: list[np.ndarray]) -> np.ndarray:
    """The distinct items of lists of items, ascending: [M] int64."""
    if not parts:
        return np.zeros(0, np.int64)
    # Where the lists are ascending this only merges them, in a hundredth of the time of numpy.unique.
    items = np.sort(np.concatenate(parts), kind="stable")
    return items[np.diff(items, prepend=-1) > 0]


def split_values(column: pa.Array | pa.ChunkedArray, separator: str = SEPARATOR) -> pa.ListArray:
    """The values of each row of a catalogue's column: text with a separator, lists of text, or numbers.

    Values are cleaned as titles are; empty and repeated ones are left out.
    """
    values = flatten(column)
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        rows = pc.cast(values, _LISTS).to_pylist()
    else:
        # Few distinct texts, mostly: each is split once.
        encoded = pc.fill_null(pc.cast(values, pa.string()), "").dictionary_encode()
        texts = [text.split(separator) for text in encoded.dictionary.to_pylist()]
        lists = pa.array([_clean(parts) for parts in texts], _LISTS)
        return lists.take(encoded.indices)
    return pa.array([_clean(row or []) for row in rows], _LISTS)


def _clean(values: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(clean for value in values if value and (clean := clean_title(value))))


def _dense(column: pa.Array | pa.ChunkedArray) -> pa.ListArray:
    """One array of lists, null ones empty."""
    lists = pc.cast(flatten(column), _LISTS)
    return pc.fill_null(lists, pa.scalar([], _LISTS)) if lists.null_count else lists
