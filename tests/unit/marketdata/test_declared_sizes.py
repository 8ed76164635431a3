"""What a stream declares is known before it is decompressed: bombs are refused unopened."""

from struct import pack

import numpy as np
import pyarrow as pa
import pytest
from events import batches, trades
from frame_mutations import END_OF_STREAM, messages
from hypothesis import given
from hypothesis import strategies as st

from marketdata.declared_sizes import Declared, declared
from marketdata.errors import InvalidFrame
from marketdata.frames import MAX_FRAME_BYTES, decode_frame, encode_frame


def _declared(data: bytes) -> Declared:
    return declared(pa.BufferReader(data))


def _refused(data: bytes) -> InvalidFrame:
    with pytest.raises(InvalidFrame) as refused:
        decode_frame(data)
    return refused.value


def _frame(batch: pa.RecordBatch, compression: str | None = None) -> bytes:
    return encode_frame(batch, compression=compression).to_pybytes()


@given(batches(), st.sampled_from(["lz4", "zstd"]))
def test_a_compressed_frame_declares_what_it_holds(batch: pa.RecordBatch, codec: str) -> None:
    data = _frame(batch, codec)
    found = _declared(data)
    decoded = decode_frame(data)
    held = sum(
        buffer.size
        for column in decoded.columns
        for array in (
            [column.indices, column.dictionary]
            if isinstance(column, pa.DictionaryArray)
            else [column]
        )
        for buffer in array.buffers()
        if buffer is not None
    )
    assert found.record_batches == 1
    # Buffers that would not shrink are stored as they are and declare nothing.
    assert 0 <= found.decompressed_bytes <= held


def test_an_uncompressed_frame_declares_nothing_to_decompress() -> None:
    assert _declared(_frame(trades(["A"] * 500))) == Declared(1, 0)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_a_bomb_is_refused_without_being_decompressed(codec: str) -> None:
    zeros = pa.record_batch({"x": np.zeros(3_000_000, dtype=np.int64)})
    data = _frame(zeros, codec)
    assert len(data) < MAX_FRAME_BYTES
    del zeros
    before = pa.total_allocated_bytes()
    peak_before = pa.default_memory_pool().max_memory()
    refused = _refused(data)
    assert refused.code == "too_large"
    assert "24000000 bytes decompressed" in refused.reason
    assert pa.total_allocated_bytes() == before
    assert pa.default_memory_pool().max_memory() == peak_before


def test_a_bomb_in_a_dictionary_is_refused_like_one_in_a_column() -> None:
    words = pa.array(["x" * 5_000_000])
    column = pa.DictionaryArray.from_arrays(pa.array([0], pa.int16()), words)
    assert _refused(_frame(pa.record_batch({"x": column}), "zstd")).code == "too_large"


def test_many_small_bombs_count_together() -> None:
    columns = {f"c{n}": np.zeros(80_000, dtype=np.int64) for n in range(10)}
    refused = _refused(_frame(pa.record_batch(columns), "zstd"))
    assert (refused.code, "6400000" in refused.reason) == ("too_large", True)


def test_a_size_that_lies_is_refused_whether_it_is_huge_or_negative() -> None:
    data = _frame(pa.record_batch({"x": np.zeros(1000, dtype=np.int64)}), "zstd")
    assert data.count(pack("<q", 8000)) == 1
    for lie, code in ((1 << 62, "too_large"), (8001, "truncated"), (-5, "truncated")):
        assert _refused(data.replace(pack("<q", 8000), pack("<q", lie))).code == code


def test_a_flood_of_batches_is_counted_and_not_read() -> None:
    first, *dictionaries, batch = messages(_frame(trades(["A"])))
    flood = first + b"".join(dictionaries) + batch * 500 + END_OF_STREAM
    refused = _refused(flood)
    assert (refused.code, "500 record batches" in refused.reason) == ("batch_count", True)


def test_a_dictionary_message_without_data_is_refused() -> None:
    """Found by the fuzzer: the field that holds the dictionary's batch was absent."""
    parts = messages(_frame(trades(["A"])))
    bent = bytearray(parts[1])
    table = 8 + int.from_bytes(bent[8:12], "little")
    vtable = table - int.from_bytes(bent[table : table + 4], "little", signed=True)
    header = table + int.from_bytes(bent[vtable + 8 : vtable + 10], "little")
    dictionary = header + int.from_bytes(bent[header : header + 4], "little")
    fields = dictionary - int.from_bytes(bent[dictionary : dictionary + 4], "little", signed=True)
    bent[fields + 6 : fields + 8] = b"\0\0"
    data = b"".join([parts[0], bytes(bent), *parts[2:], END_OF_STREAM])
    assert _declared(data) == Declared(1, 0)
    assert _refused(data).code == "truncated"
