"""Ids of names are those that a dict would give."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from functions.operators.symbols import SymbolTable

names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20)


@given(
    st.lists(st.lists(names | st.sampled_from(("A", "A\0", "AB", "A" * 15, "A" * 16)), max_size=30))
)
def test_every_name_has_the_id_of_its_first_appearance(frames: list[list[str]]) -> None:
    table, expected = SymbolTable(), dict[str, int]()
    for frame in frames:
        # Cut from a longer array, as a slice of a frame's dictionary may be.
        given_names = pa.array(["?", *frame], pa.utf8()).slice(1)
        wanted = [expected.setdefault(name, len(expected)) for name in frame]
        assert table.ids_of(given_names).tolist() == wanted
    assert table.names == list(expected)
    assert len(table) == len(expected)
    assert all(table.find(name) == number for name, number in expected.items())


def test_many_names_are_found_again() -> None:
    table = SymbolTable()
    many = pa.array([f"SYM{n:05d}" for n in range(30_000)])
    assert table.ids_of(many).tolist() == list(range(30_000))
    assert table.ids_of(many.take(pa.array([29_999, 0, 7]))).tolist() == [29_999, 0, 7]
