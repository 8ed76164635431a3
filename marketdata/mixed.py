"""Mixed frames: events of several kinds in one batch, in the order of the log.

A frame of the log holds events of one kind, and where kinds take turns messages of one kind are
small. A mixed frame has the column `kind` first, then every column of the kinds that occur in it,
in the order of `marketdata.schemas`; columns that an event's kind lacks are null. Pure.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import pyarrow as pa

from marketdata.arrays import array_of, joined
from marketdata.schemas import COLUMNS, KINDS, SCHEMA_VERSION, SEQUENCED_SCHEMAS, SYMBOL

MIXED: Final = "mixed"
"""What stands for the kind of a mixed frame: in the schema's metadata and the properties."""

KIND_FIELD: Final = pa.field("kind", SYMBOL, nullable=False)


def mixed_schema(kinds: Sequence[str] = KINDS) -> pa.Schema:
    """The schema of sequenced events of some kinds; the order of `kinds` makes no difference.

    A column that only some kinds have is nullable.
    """
    return _schema(frozenset(kinds))


def mixed_batch(batches: Sequence[tuple[str, pa.RecordBatch]]) -> pa.RecordBatch:
    """One batch of the rows of several, in the order given, on shared dictionaries.

    Args:
        batches: kind and sequenced events of that kind, at least one batch.
    """
    schema = mixed_schema([kind for kind, _ in batches])
    return joined([_widened(kind, batch, schema) for kind, batch in batches])


def occurring(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A mixed batch without the columns of kinds that do not occur in it.

    Args:
        batch: mixed; the dictionary of its kinds holds only those that occur.
    """
    schema = mixed_schema(batch.column("kind").dictionary.to_pylist())
    for field in batch.schema:
        if field.name not in COLUMNS and field.name != KIND_FIELD.name:
            schema = schema.append(field)  # from a reference table
    if len(schema) == batch.num_columns:
        return batch
    return pa.RecordBatch.from_arrays([batch.column(name) for name in schema.names], schema=schema)


@lru_cache(maxsize=1 << len(KINDS))
def _schema(kinds: frozenset[str]) -> pa.Schema:
    schemas = [SEQUENCED_SCHEMAS[kind] for kind in KINDS if kind in kinds]
    fields = [KIND_FIELD]
    for name, field in COLUMNS.items():
        having = sum(schema.get_field_index(name) >= 0 for schema in schemas)
        if having:
            fields.append(field if having == len(schemas) else field.with_nullable(True))
    return pa.schema(fields, metadata={"kind": MIXED, "schema_version": str(SCHEMA_VERSION)})


def _widened(kind: str, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    rows = batch.num_rows
    codes = array_of(np.zeros(rows, np.int16), pa.int16())
    columns = [pa.DictionaryArray.from_arrays(codes, pa.array([kind], pa.utf8()), safe=False)]
    for field in list(schema)[1:]:
        at = batch.schema.get_field_index(field.name)
        columns.append(pa.nulls(rows, field.type) if at < 0 else batch.column(at))
    return pa.RecordBatch.from_arrays(columns, schema=schema)
