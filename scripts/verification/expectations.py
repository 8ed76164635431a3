"""What a view must hold, said in NumPy over the events as they were published.

An expectation is written beside the subscription's SQL by a person, not derived from it: two
tellings of the same thing, of which one runs in the functions and the other here.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketdata.schemas import ASSIGNED, SEQUENCED_SCHEMAS

Mask = npt.NDArray[np.bool_]
Predicate = Callable[[pa.RecordBatch, str], Mask]
"""(published batch, kind) -> which of its rows the view must hold."""
Values = Callable[[pa.RecordBatch, str], pa.Array]
"""(published batch, kind) -> what a column that is computed of it must hold, one value a row."""


@dataclass(frozen=True, slots=True)
class ViewExpectation:
    """What one view must hold.

    Attributes:
        name: what reports call it.
        matches: which published events belong in it.
        format: of its frames.
        by_event: whether a message is one event; only so Avro.
        select: original names of the delivered columns; None for all.
        rename: original name -> delivered name.
        computed: name -> values of a column that no publisher wrote; of Arrow views only.
        from_first: the view is new, so its deliveries are counted from 1.
        joins_midway: the view came to be while events flowed; it may begin with any event but
            must hold everything from there on. `check` can be told from when at least.
        leaves_midway: its consumer went while events flowed; it must hold everything up to the
            last event that arrived.
    """

    name: str
    matches: Predicate
    format: Literal["arrow", "json", "avro"] = "arrow"
    by_event: bool = False
    select: tuple[str, ...] | None = None
    rename: dict[str, str] = field(default_factory=dict)
    computed: Mapping[str, Values] = field(default_factory=dict)
    from_first: bool = False
    joins_midway: bool = False
    leaves_midway: bool = False

    @property
    def says_all(self) -> bool:
        """Whether its events say what the publisher's do, no less and no more."""
        return self.select is None and not self.computed

    def columns(self, kind: str) -> tuple[str, ...]:
        """Original names of the columns that frames of a kind must have beside computed ones."""
        names = SEQUENCED_SCHEMAS[kind].names
        return tuple(names if self.select is None else [n for n in self.select if n in names])


def published_columns(names: Iterable[str]) -> list[str]:
    """Those of the columns that a publisher wrote, so that their content can be compared."""
    return [name for name in names if name not in ASSIGNED]


def everything(batch: pa.RecordBatch, _kind: str) -> Mask:
    """Every event."""
    return np.ones(batch.num_rows, dtype=bool)


def of_instruments(*instruments: str) -> Predicate:
    """Events of the named instruments."""
    wanted = frozenset(instruments)

    def matches(batch: pa.RecordBatch, _kind: str) -> Mask:
        column = batch.column("instrument")
        named = np.array([name in wanted for name in column.dictionary.to_pylist()], dtype=bool)
        mask: Mask = named[column.indices.to_numpy(zero_copy_only=False)]
        return mask

    return matches


def symbols_of(batch: pa.RecordBatch, name: str) -> npt.NDArray[np.object_]:
    """A symbol column as an object array of str; None where it is null."""
    column = batch.column(name)
    values = np.array([*column.dictionary.to_pylist(), None], dtype=object)
    codes = column.indices.cast(pa.int64()).fill_null(len(values) - 1)
    found: npt.NDArray[np.object_] = values[codes.to_numpy(zero_copy_only=False)]
    return found


def numbers_of(batch: pa.RecordBatch, name: str) -> tuple[npt.NDArray[np.int64], Mask]:
    """A number column as int64 (0 where it is null) and where it is known.

    A column that the kind does not have is known nowhere.
    """
    at = batch.schema.get_field_index(name)
    if at < 0:
        return np.zeros(batch.num_rows, dtype=np.int64), np.zeros(batch.num_rows, dtype=bool)
    column = batch.column(at)
    known = column.is_valid().to_numpy(zero_copy_only=False)
    return column.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64), known
