"""Inputs stay until every output made of them is confirmed, and leave in log order."""

from hypothesis import given
from hypothesis import strategies as st

from functions.runtime.inputs import Input, PartitionInputs
from functions.runtime.outputs import Output


class MessageId:
    def __init__(self, entry_id: int) -> None:
        self._entry_id = entry_id

    def ledger_id(self) -> int:
        return 5

    def entry_id(self) -> int:
        return self._entry_id

    def batch_index(self) -> int:
        return -1


def _input(entry_id: int) -> Input:
    return Input(MessageId(entry_id), b"", {})


def _entries(items: object) -> list[int]:
    return [item.message_ids[0].entry_id() for item in items]  # type: ignore[attr-defined]


@given(st.lists(st.integers(0, 20), max_size=60))
def test_whatever_is_delivered_again_is_taken_once_and_in_order(entries: list[int]) -> None:
    inputs = PartitionInputs()
    taken = [n for n in entries if inputs.offer(_input(n))]
    assert taken == sorted(set(taken))
    assert _entries(inputs) == taken


@given(st.permutations(range(6)))
def test_confirmations_in_any_order_release_inputs_in_log_order(order: list[int]) -> None:
    inputs = PartitionInputs()
    outputs = [Output("a", "test"), Output("b", "test")]
    items = [_input(n) for n in range(6)]
    for item in items:
        assert inputs.offer(item)
        item.waiting.update(dict.fromkeys(outputs, 0))
        item.applied = True
    released: list[int] = []
    done: set[int] = set()
    for n in order:
        items[n].waiting.pop(outputs[0])
        assert _entries(inputs.take_confirmed()) == []  # the other output still waits
        items[n].waiting.clear()
        done.add(n)
        released += _entries(inputs.take_confirmed())
        ready = next((k for k in range(6) if k not in done), 6)
        assert released == list(range(ready))
        if ready:
            assert inputs.confirmed_through == items[ready - 1].position
        for item in items:
            if item.message_ids[0].entry_id() not in done:
                item.waiting[outputs[0]] = 0


def test_an_input_that_has_not_been_applied_is_not_confirmed() -> None:
    inputs = PartitionInputs()
    item = _input(1)
    inputs.offer(item)
    assert _entries(inputs.take_confirmed()) == []
    item.applied = True
    assert _entries(inputs.take_confirmed()) == [1]
    assert not inputs.offer(_input(1))
    assert len(inputs) == 0


def test_an_input_delivered_again_while_pending_is_acknowledged_under_both_ids() -> None:
    inputs = PartitionInputs()
    first, again = _input(1), _input(1)
    inputs.offer(first)
    inputs.offer(_input(2))
    assert not inputs.offer(again)
    assert first.message_ids == [*first.message_ids[:1], *again.message_ids]
