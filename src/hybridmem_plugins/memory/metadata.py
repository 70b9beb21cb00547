"""Metadata by column, so that a filter becomes a mask over rows in about a millisecond."""

from __future__ import annotations

import json
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridmem_plugins.errors import MemoryFormatError
from hybridmem_plugins.memory.cachefile import load_cache, save_cache
from hybridmem_plugins.memory.filters import (
    MISSING,
    Combination,
    Condition,
    Expression,
    holds,
    identity,
    parse_filter,
    resolve,
)
from hybridmem_plugins.memory.rows import Mask, Rows, as_rows

_SCALARS = frozenset({str, int, float, bool, type(None)})
CACHED_MASKS = 64  # at 100,000 passages: 6 MB


class _Column:
    """The rows that have a key, each with the number of its value."""

    def __init__(self) -> None:
        self.rows = array("q")
        self.codes = array("i")
        self.values: list[Any] = []
        self._code_of: dict[Any, int] = {}
        self._numbers: tuple[NDArray[np.float64], bool] | None = None

    def add(self, row: int, value: Any) -> None:
        # A string equals nothing but a string, so it is its own identity; others could be mistaken (1 and True).
        name = value if type(value) is str else identity(value)
        code = self._code_of.get(name)
        if code is None:
            code = self._code_of[name] = len(self.values)
            self.values.append(value)
            self._numbers = None
        self.rows.append(row)
        self.codes.append(code)

    @classmethod
    def restored(cls, rows: NDArray[np.int64], codes: NDArray[np.int32], values: list[Any]) -> _Column:
        """Return a column with this content."""
        column = cls()
        column.rows.frombytes(rows.astype(np.int64).tobytes())
        column.codes.frombytes(codes.astype(np.int32).tobytes())
        column.values = values
        column._code_of = {value if type(value) is str else identity(value): i for i, value in enumerate(values)}
        return column

    def code(self, value: Any) -> int | None:
        """Return the number of a value, None where no row has it."""
        return self._code_of.get(value if type(value) is str else identity(value))

    def truth(self, condition: Condition) -> Mask:
        """Return for each distinct value whether it fulfils a condition."""
        operator, operand = condition.operator, condition.operand
        if operator in ("$eq", "$in", "$ne", "$nin"):
            truth = np.zeros(len(self.values), dtype=np.bool_)
            for item in [operand] if operator in ("$eq", "$ne") else operand:
                code = self.code(item)
                if code is not None:
                    truth[code] = True
            return truth if operator in ("$eq", "$in") else ~truth
        if operator in _RANGES and not isinstance(operand, str):
            numbers, exact = self._as_numbers()
            if exact and abs(operand) < 2**53:
                with np.errstate(invalid="ignore"):
                    mask: Mask = _RANGES[operator](numbers, operand)
                return mask
        return np.fromiter((holds(condition, value) for value in self.values), dtype=np.bool_, count=len(self.values))

    def _as_numbers(self) -> tuple[NDArray[np.float64], bool]:
        """Return the values as floats, NaN for what is no number, and whether all of them fit."""
        if self._numbers is None:
            exact = True
            numbers = np.full(len(self.values), np.nan)
            for code, value in enumerate(self.values):
                if isinstance(value, int | float) and not isinstance(value, bool):
                    if abs(value) < 2**53:
                        numbers[code] = value
                    else:
                        exact = False
            self._numbers = (numbers, exact)
        return self._numbers


_RANGES: dict[str, Any] = {"$gt": np.greater, "$gte": np.greater_equal, "$lt": np.less, "$lte": np.less_equal}


class MetadataIndex:
    """Turns filters into masks over rows.

    Example:
        >>> index = MetadataIndex()
        >>> index.add([1, 2], [{"tenant": "a"}, {"tenant": "b"}])
        >>> index.mask({"tenant": "b"}).tolist()
        [False, False, True]
    """

    def __init__(self) -> None:
        self._mask_guard = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._columns: dict[str, _Column] = {}
        self._live = np.zeros(0, dtype=np.bool_)
        self._size = 0  # highest row + 1
        self._dead = 0
        self._masks: OrderedDict[str, Mask] = OrderedDict()

    def add(self, rows: Sequence[int] | Rows, metadata: Sequence[Mapping[str, Any]]) -> None:
        """Store the metadata of new rows."""
        labels = as_rows(rows)
        if not len(labels):
            return
        self._size = max(self._size, int(labels.max()) + 1)
        if self._size > len(self._live):
            grown = np.zeros(max(1024, self._size, int(len(self._live) * 1.25)), dtype=np.bool_)
            grown[: len(self._live)] = self._live
            self._live = grown
        self._live[labels] = True
        for row, values in zip(labels.tolist(), metadata, strict=True):
            for key, value in _items(values):
                column = self._columns.get(key)
                if column is None:
                    column = self._columns[key] = _Column()
                column.add(row, value)
        self._masks.clear()

    def remove(self, rows: Sequence[int] | Rows) -> None:
        """Forget rows; unknown ones are ignored."""
        labels = as_rows(rows)
        labels = labels[(labels >= 0) & (labels < self._size)]
        self._dead += int(np.count_nonzero(self._live[labels]))
        self._live[labels] = False
        self._masks.clear()
        if self._dead > max(1024, int(np.count_nonzero(self._live)) // 2):
            self.compact()

    def compact(self) -> None:
        """Drop every trace of removed rows."""
        columns: dict[str, _Column] = {}
        for key, column in self._columns.items():
            kept = _Column()
            for row, code in zip(column.rows, column.codes, strict=True):
                if self._live[row]:
                    kept.add(row, column.values[code])
            if kept.values:
                columns[key] = kept
        self._columns = columns
        self._dead = 0
        self._masks.clear()

    def rows(self) -> Rows:
        """Return all rows, ascending."""
        return np.flatnonzero(self._live[: self._size])

    def save(self, folder: Path, stamp: dict[str, Any] | None = None) -> None:
        """Write the index into a folder so that a crash at any instant leaves the old or the new one.

        Args:
            folder: Existing folder.
            stamp: Anything JSON that `load` shall return, such as the journal's version.
        """
        columns = list(self._columns.values())
        text = json.dumps([[key, column.values] for key, column in self._columns.items()])
        arrays = {
            "live": self._live[: self._size],
            "lengths": np.array([len(column.rows) for column in columns], dtype=np.int64),
            "rows": np.concatenate([np.empty(0, np.int64), *(np.array(column.rows) for column in columns)]),
            "codes": np.concatenate([np.empty(0, np.int32), *(np.array(column.codes) for column in columns)]),
            "text": np.frombuffer(text.encode("ascii"), dtype=np.uint8),
        }
        save_cache(folder, "metadata", {"dead": self._dead, "stamp": stamp}, arrays)

    def load(self, folder: Path) -> Any:
        """Replace the content by what `save` wrote.

        Returns:
            The stamp given to `save`.

        Raises:
            MemoryFormatError: Something is missing or damaged.
        """
        header, arrays, _ = load_cache(folder, "metadata")
        try:
            ends = np.cumsum(arrays["lengths"])[:-1]
            parts = zip(np.split(arrays["rows"], ends), np.split(arrays["codes"], ends), strict=True)
            columns = {}
            for (key, values), (rows, codes) in zip(json.loads(arrays["text"].tobytes()), parts, strict=False):
                columns[key] = _Column.restored(rows, codes, values)
            self._live = arrays["live"].copy()
            self._size = len(self._live)
            self._columns, self._dead = columns, int(header["dead"])
            self._masks.clear()
            return header["stamp"]
        except (KeyError, TypeError, ValueError) as error:
            msg = f"the metadata cache in {folder} is damaged: {error}"
            raise MemoryFormatError(msg) from error

    def live(self) -> Mask:
        """Return the mask of all rows."""
        return self._live[: self._size].copy()

    def mask(self, query: Mapping[str, Any]) -> Mask:
        """Return the mask of the rows that a filter allows; do not change it, later calls may get the same array.

        Raises:
            TypeError: The filter, a list of conditions or an operand has the wrong type.
            ValueError: An operator is unknown, or an operand is not plain JSON.
        """
        expression = parse_filter(query)
        name = repr(expression)
        with self._mask_guard:
            known = self._masks.get(name)
            if known is not None:
                self._masks.move_to_end(name)
                return known
        mask = self._evaluate(expression) & self._live[: self._size]
        mask.flags.writeable = False
        with self._mask_guard:
            self._masks[name] = mask
            if len(self._masks) > CACHED_MASKS:
                self._masks.popitem(last=False)
        return mask

    def _evaluate(self, expression: Expression) -> Mask:
        if isinstance(expression, Combination):
            masks = [self._evaluate(part) for part in expression.parts]
            if expression.logic == "not":
                return ~masks[0]
            combined = np.full(self._size, expression.logic == "and", dtype=np.bool_)
            for mask in masks:
                combined = combined & mask if expression.logic == "and" else combined | mask
            return combined
        mask = np.full(self._size, holds(expression, MISSING), dtype=np.bool_)
        column = self._columns.get(expression.key)
        if column is not None:
            codes = np.frombuffer(column.codes.tobytes(), dtype=np.int32)
            mask[np.frombuffer(column.rows.tobytes(), dtype=np.int64)] = column.truth(expression)[codes]
        return mask


def _items(metadata: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Return everything that can be found in nested metadata, each key once."""
    for value in metadata.values():
        if type(value) not in _SCALARS and isinstance(value, Mapping):  # asking for a Mapping is slow
            return [(key, resolve(metadata, key)) for key in dict.fromkeys(_paths(metadata, ""))]
    return metadata.items()


def _paths(metadata: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in metadata.items():
        yield prefix + key
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{key}.")
