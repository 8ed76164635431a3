"""The content of reference tables: what is kept, what is refused, and its way over the topic."""

from typing import Any

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import given

from marketdata.reference import TableContent, TableError, TableSpec, content_of, pieces_of
from marketdata.reference import table as tables
from marketdata.reference.table import assembled, read_content, schema_of

SPEC = TableSpec(
    {"instrument": "text", "since": "time", "lot": "integer"}, ("instrument",), "since"
)
HELD = st.dictionaries(
    st.tuples(st.sampled_from("ABC"), st.integers(0, 5)), st.one_of(st.none(), st.integers(0, 9))
)


def rows_of(held: dict[tuple[str, int], int | None]) -> pa.Table:
    rows = [{"instrument": of, "since": at, "lot": lot} for (of, at), lot in held.items()]
    return pa.Table.from_pylist(rows, schema=schema_of(SPEC))


def held_by(content: TableContent) -> list[tuple[Any, ...]]:
    table = read_content(content.data)
    since = table.column("since").cast(pa.int64()).to_pylist()
    return list(
        zip(
            table.column("instrument").to_pylist(),
            since,
            table.column("lot").to_pylist(),
            strict=True,
        )
    )


@given(HELD, HELD)
def test_changed_rows_stand_in_the_place_of_those_with_their_key(
    before: dict[tuple[str, int], int | None], changed: dict[tuple[str, int], int | None]
) -> None:
    first = content_of(SPEC, rows_of(before))
    after = content_of(SPEC, rows_of(changed), read_content(first.data))
    expected = sorted((*key, lot) for key, lot in (before | changed).items())
    assert held_by(after) == expected
    assert after.rows == len(expected)
    # However it came about, equal content has one digest.
    assert after.digest == content_of(SPEC, rows_of(before | changed)).digest


def test_two_rows_of_one_key_are_refused_by_their_numbers() -> None:
    rows = pa.concat_tables([rows_of({("B", 1): 1, ("A", 1): 2}), rows_of({("B", 1): 3})])
    with pytest.raises(TableError, match="rows 1 and 3 have the same instrument, since"):
        content_of(SPEC, rows)


def test_a_key_that_is_null_and_a_text_that_is_too_long_are_refused() -> None:
    rows = pa.table([["A", None], [0, 0], [1, 1]], schema=schema_of(SPEC))
    with pytest.raises(TableError, match="row 2: 'instrument' is null"):
        content_of(SPEC, rows)
    rows = pa.table([["A", "ü" * 128], [0, 0], [1, 1]], schema=schema_of(SPEC))
    with pytest.raises(TableError, match="row 2: 'instrument' has 256 bytes"):
        content_of(SPEC, rows)


def test_more_rows_or_bytes_than_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of({("A", n): n for n in range(3)})
    monkeypatch.setattr(tables, "MAX_ROWS", 2)
    with pytest.raises(TableError, match="3 rows; at most 2"):
        content_of(SPEC, rows)
    monkeypatch.setattr(tables, "MAX_ROWS", 3)
    monkeypatch.setattr(tables, "MAX_CONTENT_BYTES", 10)
    with pytest.raises(TableError, match="at most 10 fit"):
        content_of(SPEC, rows)
    monkeypatch.setattr(tables, "MAX_CONTENT_BYTES", 10_000)
    # However well it is compressed, this is what those who join it hold.
    monkeypatch.setattr(tables, "MAX_TABLE_BYTES", 20)
    with pytest.raises(TableError, match="bytes of memory; at most"):
        content_of(SPEC, rows)


def test_pieces_make_the_content_again_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PIECE_BYTES", 100)
    content = content_of(SPEC, rows_of({("A", n): n for n in range(20)}))
    messages = pieces_of(content.digest, content.data)
    assert len(messages) == content.pieces > 2
    assert assembled(content.digest, content.pieces, messages) == content.data
    last = f"{content.digest}/{content.pieces - 1}"
    assert assembled(content.digest, content.pieces, messages | {last: b"other"}) is None
    del messages[last]
    assert assembled(content.digest, content.pieces, messages) is None
