"""The chain of the audit log: whatever is done to a chain afterwards is found."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from control_plane.domains.audit.chain import GENESIS, Break, Head, Link, follow, seal

Values = tuple[str | None, ...]
texts = st.none() | st.text(max_size=8) | st.sampled_from(["", "-", "1:a", "1:a1:b"])
chains = st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=8)


def chained(entries: list[Values]) -> tuple[list[Link], Head]:
    head, links = Head(), []
    for values in entries:
        head = seal(head, values)
        links.append(Link(head.sequence, values, head.digest))
    return links, head


def holds(links: list[Link], head: Head) -> bool:
    end, broken = follow(Head(), links)
    return broken is None and end == head


@given(chains)
def test_what_was_chained_holds_from_any_place_on(entries: list[Values]) -> None:
    links, head = chained(entries)
    assert holds(links, head)
    for place, link in enumerate(links, start=1):
        assert follow(Head(link.sequence, link.digest), links[place:]) == (head, None)


@given(chains, st.data())
def test_any_other_value_is_found_where_it_stands(
    entries: list[Values], data: st.DataObject
) -> None:
    links, _ = chained(entries)
    place = data.draw(st.integers(0, len(links) - 1))
    other = data.draw(st.tuples(texts, texts, texts).filter(lambda each: each != entries[place]))
    links[place] = replace(links[place], values=other)
    assert follow(Head(), links)[1] == Break(
        place + 1, "changed: the digest is not that of what it says"
    )


@given(chains, st.data())
def test_any_removal_is_found(entries: list[Values], data: st.DataObject) -> None:
    """Also of the last ones, by the head."""
    links, head = chained(entries)
    first = data.draw(st.integers(0, len(links) - 1))
    last = data.draw(st.integers(first + 1, len(links)))
    del links[first:last]
    assert not holds(links, head)


@given(chains, st.data())
def test_any_swap_is_found(entries: list[Values], data: st.DataObject) -> None:
    """Whether the places go along, or what stands there is exchanged."""
    links, head = chained(entries)
    one = data.draw(st.integers(0, len(links) - 1))
    other = data.draw(
        st.integers(0, len(links) - 1).filter(lambda place: place != one or place == 0)
    )
    swapped = links[:]
    swapped[one], swapped[other] = swapped[other], swapped[one]
    assert holds(swapped, head) == (one == other)
    exchanged = links[:]
    exchanged[one] = replace(links[one], values=links[other].values)
    exchanged[other] = replace(links[other], values=links[one].values)
    assert holds(exchanged, head) == (links[one].values == links[other].values)


@given(chains, st.tuples(texts, texts, texts), st.data())
def test_an_entry_put_in_is_found(
    entries: list[Values], values: Values, data: st.DataObject
) -> None:
    """Even with a digest that fits what stands before it."""
    links, head = chained(entries)
    place = data.draw(st.integers(0, len(links)))
    before = Head(place, links[place - 1].digest) if place else Head()
    made = seal(before, values)
    links.insert(place, Link(made.sequence, values, made.digest))
    assert not holds(links, head)


def test_the_digest_is_what_the_documentation_says() -> None:
    """Worked out with another program (printf … | sha256sum), so that anybody can check a log."""
    assert seal(Head(), ("a", None, "ü")).digest.hex() == DOCUMENTED
    assert bytes(32) == GENESIS


DOCUMENTED = "f747e128614f4be2c463380abc97eff39d9bbb249b772572da4ff76eea3bb6b9"
