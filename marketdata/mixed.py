"""Mixed frames: events of several kinds in one batch, in the order in which they came.

Where kinds take turns, frames of one kind are small however many events wait. A mixed frame has the
column `kind` first, then every column of the kinds that occur in it, in the order of
`marketdata.schemas`; columns that an event's kind lacks are null. At the ingest and in the log
(decision 53) its bounds are such that it fits a message whatever its kinds, and that each of its
runs of a kind can have a place of its own before the frame's. Pure.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketdata.arrays import array_of, codes_of, joined
from marketdata.schemas import (
    ASSIGNED,
    COLUMNS,
    INGEST_SCHEMAS,
    KINDS,
    SCHEMA_VERSION,
    SEQUENCED_SCHEMAS,
    SYMBOL,
)

MIXED: Final = "mixed"
"""What stands for the kind of a mixed frame: in the schema's metadata and the properties."""

KIND_FIELD: Final = pa.field("kind", SYMBOL, nullable=False)

MAX_MIXED_ROWS: Final = 8_192
"""Most events of a mixed frame at the ingest and in the log; more are as cheap kind by kind."""

MAX_MIXED_BYTES: Final = 2 * 1024 * 1024
"""Most bytes of what is put together; columns that are null come on top of them."""

MAX_KIND_RUNS: Final = 512
"""Most runs of a kind in such a frame: with pieces of 8 rows fewer than an entry's 4,096 places."""


def mixed_schema(kinds: Sequence[str] = KINDS, *, ingest: bool = False) -> pa.Schema:
    """The schema of events of some kinds; the order of `kinds` makes no difference.

    A column that only some kinds have is nullable.

    Args:
        kinds: which.
        ingest: without the columns that the sequencer assigns.
    """
    return _schema(frozenset(kinds), ingest)


def mixed_batch(batches: Sequence[tuple[str, pa.RecordBatch]]) -> pa.RecordBatch:
    """One batch of the rows of several, in the order given, on shared dictionaries.

    Args:
        batches: kind and events of that kind, or `MIXED` and a mixed batch; at least one, either
            all sequenced or none.
    """
    kinds = {one for kind, batch in batches for one in kinds_in(kind, batch)}
    ingest = batches[0][1].schema.get_field_index(ASSIGNED[0]) < 0
    schema = mixed_schema(list(kinds), ingest=ingest)
    return joined([_widened(kind, batch, schema) for kind, batch in batches])


def kinds_in(kind: str, batch: pa.RecordBatch) -> list[str]:
    """The kinds of a batch's events.

    Args:
        kind: of all of them, or `MIXED`; then the dictionary of kinds holds only those that occur.
    """
    found: list[str] = batch.column(0).dictionary.to_pylist() if kind == MIXED else [kind]
    return found


def kind_runs(kind: str, batch: pa.RecordBatch) -> int:
    """How often the kind changes in a batch, and one."""
    if kind != MIXED:
        return 1
    codes = codes_of(batch.column(0))
    return 1 + int(np.count_nonzero(codes[1:] != codes[:-1]))


def single_kinds(kind: str, batch: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
    """The runs of a kind in a frame as batches with the schema of their kind, in order.

    Their dictionaries are those of the whole frame.

    Args:
        kind: of all events, or `MIXED`.
        batch: of the ingest or the log.
    """
    if kind != MIXED:
        yield kind, batch
        return
    codes = codes_of(batch.column(0))
    names = batch.column(0).dictionary.to_pylist()
    of_kind = {code: of_one_kind(batch, one) for code, one in enumerate(names)}
    bounds = [0, *(np.flatnonzero(codes[1:] != codes[:-1]) + 1).tolist(), len(codes)]
    for start, end in pairwise(bounds):
        code = int(codes[start])
        yield names[code], of_kind[code].slice(start, end - start)


def of_one_kind(batch: pa.RecordBatch, kind: str) -> pa.RecordBatch:
    """A mixed batch of which only rows of a kind are looked at, with the schema of that kind."""
    ingest = batch.schema.get_field_index(ASSIGNED[0]) < 0
    schema = (INGEST_SCHEMAS if ingest else SEQUENCED_SCHEMAS)[kind]
    return pa.RecordBatch.from_arrays([batch.column(name) for name in schema.names], schema=schema)


def lacking(batch: pa.RecordBatch) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """The columns that some kinds of a mixed batch lack, each with the rows of these kinds."""
    codes = codes_of(batch.column(0))
    for name, lacks in _lacks(tuple(batch.column(0).dictionary.to_pylist())):
        yield name, lacks[codes]


def occurring(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A mixed batch without the columns of kinds that do not occur in it.

    Args:
        batch: mixed; the dictionary of its kinds holds only those that occur.
    """
    ingest = batch.schema.get_field_index(ASSIGNED[0]) < 0
    kept = mixed_schema(batch.column("kind").dictionary.to_pylist(), ingest=ingest)
    if batch.num_columns == len(kept):  # it has all of these, so it has no others
        return batch
    fields = []
    for field in batch.schema:
        at = kept.get_field_index(field.name)
        if at >= 0:
            fields.append(kept.field(at))
        elif field.name not in COLUMNS:
            fields.append(field)  # from a reference table
    if len(fields) == batch.num_columns:
        return batch
    schema = pa.schema(fields, metadata=batch.schema.metadata)
    return pa.RecordBatch.from_arrays([batch.column(name) for name in schema.names], schema=schema)


@lru_cache(maxsize=1 << len(KINDS))
def _lacks(kinds: tuple[str, ...]) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """The columns that some of these kinds lack, each with which of them do."""
    found = []
    for name in mixed_schema(kinds, ingest=True).names[1:]:
        lacks = [SEQUENCED_SCHEMAS[kind].get_field_index(name) < 0 for kind in kinds]
        if any(lacks):
            found.append((name, np.array(lacks)))
    return found


@lru_cache(maxsize=2 << len(KINDS))
def _schema(kinds: frozenset[str], ingest: bool) -> pa.Schema:
    schemas = [SEQUENCED_SCHEMAS[kind] for kind in KINDS if kind in kinds]
    fields = [KIND_FIELD]
    for name, field in COLUMNS.items():
        having = sum(schema.get_field_index(name) >= 0 for schema in schemas)
        if having and not (ingest and name in ASSIGNED):
            fields.append(field if having == len(schemas) else field.with_nullable(True))
    return pa.schema(fields, metadata={"kind": MIXED, "schema_version": str(SCHEMA_VERSION)})


def _widened(kind: str, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    if kind == MIXED and batch.num_columns == len(schema):
        return batch
    rows = batch.num_rows
    if kind == MIXED:
        columns = [batch.column(0)]
    else:
        codes = array_of(np.zeros(rows, np.int16), pa.int16())
        columns = [pa.DictionaryArray.from_arrays(codes, pa.array([kind], pa.utf8()), safe=False)]
    for field in list(schema)[1:]:
        at = batch.schema.get_field_index(field.name)
        columns.append(pa.nulls(rows, field.type) if at < 0 else batch.column(at))
    return pa.RecordBatch.from_arrays(columns, schema=schema)
