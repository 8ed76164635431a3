"""Frame coding, by properties: extreme values, unused dictionary values, any kind of damage."""

import random

import numpy as np
import pyarrow as pa
import pytest
from events import batches, values_of
from frame_check import check_frame
from frame_mutations import Mutator, messages, plausible, with_bits_flipped
from hypothesis import given
from hypothesis import strategies as st

from marketdata.errors import InvalidFrame
from marketdata.frames import (
    MAX_ROWS,
    MAX_SYMBOL_BYTES,
    REASONS,
    compact_dictionaries,
    decode_frame,
    encode_frame,
    read_frame,
)
from marketdata.schemas import INGEST_SCHEMAS, KINDS, SEQUENCED_SCHEMAS, SYMBOL, is_symbol

COMPRESSIONS = [None, "lz4", "zstd"]
FORMS = [(kind, sequenced) for kind in KINDS for sequenced in (False, True)]
MUTATOR = Mutator()


def _schema(kind: str, *, sequenced: bool) -> pa.Schema:
    return (SEQUENCED_SCHEMAS if sequenced else INGEST_SCHEMAS)[kind]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize(("kind", "sequenced"), FORMS)
def test_every_kind_in_full_size_comes_back(
    kind: str, sequenced: bool, compression: str | None
) -> None:
    batch = plausible(_schema(kind, sequenced=sequenced), MAX_ROWS)
    data = encode_frame(batch, compression=compression).to_pybytes()
    assert decode_frame(data, sequenced=sequenced).equals(batch, check_metadata=True)
    assert read_frame(data).equals(batch)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize(("kind", "sequenced"), FORMS)
def test_the_extremes_of_every_column_come_back(
    kind: str, sequenced: bool, compression: str | None
) -> None:
    schema = _schema(kind, sequenced=sequenced)
    columns = []
    for field in schema:
        extremes = _extremes(field)
        if is_symbol(field):
            columns.append(pa.array(extremes, pa.utf8()).dictionary_encode().cast(SYMBOL))
        elif pa.types.is_timestamp(field.type):
            columns.append(pa.array(extremes, pa.int64()).view(field.type))
        else:
            columns.append(pa.array(extremes, field.type))
    batch = pa.RecordBatch.from_arrays(columns, schema=schema)
    data = encode_frame(batch, compression=compression).to_pybytes()
    assert decode_frame(data, sequenced=sequenced).equals(batch)


def _extremes(field: pa.Field) -> list[object]:
    """Least, greatest, and null where it may be."""
    kind = field.type
    if is_symbol(field):
        found: list[object] = ["x", "ü" * (MAX_SYMBOL_BYTES // 2)]
    elif pa.types.is_string(kind):
        found = ["", "z" * 70_000]
    elif pa.types.is_float32(kind):
        found = [0.0, 1.0]
    elif pa.types.is_timestamp(kind):
        found = [0, 2**63 - 1]
    elif pa.types.is_int64(kind):
        signed = "price" in field.name or (field.metadata or {}).get(b"unit") == b"price"
        least = -(2**63) if signed else 1
        found = [least, 2**63 - 1]
    else:
        found = [0, 2**kind.bit_width - 1]
    return [*found, None if field.nullable else found[0]]


@given(
    batches(), st.lists(values_of(INGEST_SCHEMAS["trade"].field("region")), max_size=5), st.data()
)
def test_unused_dictionary_values_survive_coding_and_not_compaction(
    batch: pa.RecordBatch, extra: list[str | None], data: st.DataObject
) -> None:
    unused = [value for value in extra if value]
    index = data.draw(st.sampled_from([i for i, f in enumerate(batch.schema) if is_symbol(f)]))
    column = batch.column(index)
    wider = pa.DictionaryArray.from_arrays(
        column.indices, pa.concat_arrays([column.dictionary, pa.array(unused, pa.utf8())])
    )
    widened = batch.set_column(index, batch.schema.field(index), wider)
    decoded = decode_frame(encode_frame(widened, compression="lz4").to_pybytes())
    assert decoded.to_pylist() == batch.to_pylist()
    assert len(decoded.column(index).dictionary) == len(column.dictionary) + len(unused)
    compacted = compact_dictionaries(decoded)
    assert compacted.to_pylist() == batch.to_pylist()
    assert len(compacted.column(index).dictionary) == len(set(column.drop_null().to_pylist()))


@given(batches(max_rows=4), st.sampled_from(COMPRESSIONS), st.data())
def test_no_prefix_of_a_frame_is_a_frame(
    batch: pa.RecordBatch, compression: str | None, data: st.DataObject
) -> None:
    whole = encode_frame(batch, compression=compression).to_pybytes()
    cuts = {0, len(whole) - 1, len(whole) - 8, *np.cumsum([len(m) for m in messages(whole)])}
    at = data.draw(st.sampled_from(sorted(cuts)) | st.integers(0, len(whole) - 1))
    with pytest.raises(InvalidFrame) as refused:
        decode_frame(whole[:at])
    assert refused.value.code in {"truncated", "not_arrow"} <= REASONS.keys()


@given(batches(max_rows=4), st.sampled_from(COMPRESSIONS), st.integers(0, 2**32))
def test_a_bent_frame_is_refused_with_a_known_code_or_keeps_the_contract(
    batch: pa.RecordBatch, compression: str | None, seed: int
) -> None:
    whole = encode_frame(batch, compression=compression).to_pybytes()
    check_frame(MUTATOR(whole, 1 << 20, seed))
    check_frame(with_bits_flipped(whole, random.Random(seed)))
