"""Fingerprints tell events apart by content, and nothing else."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from scripts.verification.fingerprints import fingerprints

SYMBOL = pa.dictionary(pa.int16(), pa.utf8())


@given(st.lists(st.tuples(st.sampled_from(["A", "B", None]), st.integers(-(2**63), 2**63 - 1))))
def test_equal_rows_have_equal_fingerprints_whatever_their_encoding(
    rows: list[tuple[str | None, int]],
) -> None:
    texts = pa.array([text for text, _ in rows], pa.string())
    numbers = pa.array([number for _, number in rows], pa.int64())
    symbols = texts.dictionary_encode().cast(SYMBOL)

    plain = fingerprints([("text", texts), ("number", numbers)], len(rows))
    encoded = fingerprints([("number", numbers), ("text", symbols)], len(rows))

    assert plain.tolist() == encoded.tolist()
    assert len(set(plain.tolist())) == len(set(rows))


def test_null_is_not_zero() -> None:
    column = pa.array([0, None], pa.int64())

    one, other = fingerprints([("size", column)], 2)

    assert one != other


def test_the_name_of_a_column_counts() -> None:
    column = pa.array([7], pa.int64())

    assert fingerprints([("bid", column)], 1)[0] != fingerprints([("ask", column)], 1)[0]
    assert fingerprints([("bid", column), ("ask", column)], 1)[0] not in {
        fingerprints([("bid", column)], 1)[0],
        fingerprints([("ask", column)], 1)[0],
    }


def test_swapping_two_columns_values_is_seen() -> None:
    one, two = pa.array([1], pa.int64()), pa.array([2], pa.int64())

    assert (
        fingerprints([("bid", one), ("ask", two)], 1)[0]
        != fingerprints([("bid", two), ("ask", one)], 1)[0]
    )


def test_a_million_different_numbers_have_different_fingerprints() -> None:
    numbers = pa.array(np.arange(1_000_000))

    assert len(np.unique(fingerprints([("n", numbers)], 1_000_000))) == 1_000_000
