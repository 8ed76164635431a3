"""Partitioning: one instrument, one partition, in every language."""

from zlib import crc32

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from marketdata.partitioning import partition_of, partitions_of


@given(st.lists(st.text(min_size=1), max_size=20), st.integers(1, 64))
def test_a_whole_dictionary_is_partitioned_like_each_of_its_values(
    names: list[str], partitions: int
) -> None:
    found = partitions_of(pa.array(names, pa.utf8()), partitions).tolist()
    assert found == [partition_of(name, partitions) for name in names]
    assert all(0 <= partition < partitions for partition in found)


def test_the_hash_is_the_crc_32_that_other_languages_have() -> None:
    assert crc32(b"123456789") == 0xCBF43926  # the check value of CRC-32/ISO-HDLC
    assert partition_of("123456789", 1 << 16) == 0x3926
