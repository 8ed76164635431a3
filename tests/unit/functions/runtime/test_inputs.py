"""Inputs stay until every output made of them is confirmed, and leave in log order."""

from hypothesis import given
from hypothesis import strategies as st

from functions.runtime.inputs import Input, Offer, PartitionInputs
from functions.runtime.outputs import Output


class MessageId:
    def __init__(self, entry_id: int, *, index: int = -1, ledger_id: int = 5) -> None:
        self._entry_id, self._index, self._ledger_id = entry_id, index, ledger_id

    def ledger_id(self) -> int:
        return self._ledger_id

    def entry_id(self) -> int:
        return self._entry_id

    def batch_index(self) -> int:
        return self._index


def _input(entry_id: int) -> Input:
    return Input(MessageId(entry_id), b"", {})


def _entries(items: object) -> list[int]:
    return [item.message_ids[0].entry_id() for item in items]  # type: ignore[attr-defined]


def _started(entry_id: int = 0) -> PartitionInputs:
    """Inputs of which the first has come and is surely the first."""
    inputs = PartitionInputs()
    assert inputs.offer(_input(entry_id)) is Offer.DOUBTFUL
    inputs.asked_again()
    assert inputs.offer(_input(entry_id)) is Offer.TAKEN
    return inputs


@given(st.lists(st.integers(0, 20), max_size=60))
def test_what_is_taken_is_taken_once_and_without_a_hole(entries: list[int]) -> None:
    """Whatever comes, in whatever order, when nothing had been acknowledged before."""
    inputs = _started()
    taken = [0, *(n for n in entries if inputs.offer(_input(n)) is Offer.TAKEN)]
    # What comes at or before one in doubt is taken for the beginning of a redelivery.
    assert taken == sorted(set(taken))
    assert _entries(inputs) == taken


class Broker:
    """What a consumer is handed: anything from `handed` on, until a redelivery is asked for."""

    def __init__(self, acknowledged: int, handed: int, end: int) -> None:
        self.first, self.end = acknowledged, end
        self.queue = list(range(handed, end))

    def redeliver(self) -> None:
        self.queue += range(self.first, self.end)


@given(st.integers(0, 5), st.integers(0, 8), st.integers(1, 8), st.integers(0, 3))
def test_no_input_is_passed_over_when_a_partition_changes_hands(
    acknowledged: int, in_flight: int, behind: int, late: int
) -> None:
    """The old owner had `in_flight` inputs that it did not acknowledge; we are handed what follows.

    The broker's own redelivery may come as well, `late` messages after ours was asked for.
    """
    handed = acknowledged + in_flight
    broker = Broker(acknowledged, handed, handed + behind)
    inputs = PartitionInputs()
    asked = False
    taken = []
    for _ in range(200):
        if not broker.queue:
            break
        entry = broker.queue.pop(0)
        offer = inputs.offer(_input(entry))
        if offer is Offer.TAKEN:
            taken.append(entry)
        if offer is Offer.DOUBTFUL and not asked:
            asked = True
            inputs.asked_again()
            # First the broker's own beginning anew, then the one that was asked for.
            for _ in range(2):
                del broker.queue[late:]
                broker.redeliver()

    assert taken == list(range(acknowledged, handed + behind))
    assert not inputs.in_doubt


def test_an_input_behind_a_hole_is_not_taken_before_a_redelivery_shows_that_there_is_none() -> None:
    inputs = _started()
    assert inputs.offer(_input(3)) is Offer.DOUBTFUL
    inputs.asked_again()
    assert inputs.offer(_input(4)) is Offer.DOUBTFUL
    assert inputs.in_doubt
    # Entries 1 and 2 had been acknowledged: the redelivery begins with the oldest pending one.
    assert inputs.offer(_input(0)) is Offer.KNOWN
    assert inputs.offer(_input(3)) is Offer.TAKEN
    assert inputs.offer(_input(4)) is Offer.TAKEN
    assert not inputs.in_doubt


def test_messages_of_one_entry_follow_each_other_and_a_new_ledger_follows_nothing() -> None:
    inputs = PartitionInputs()
    for offer in (Offer.DOUBTFUL, Offer.TAKEN):
        assert inputs.offer(Input(MessageId(1, index=0), b"", {})) is offer
        inputs.asked_again()
    assert inputs.offer(Input(MessageId(1, index=1), b"", {})) is Offer.TAKEN
    assert inputs.offer(Input(MessageId(2, index=1), b"", {})) is Offer.DOUBTFUL
    inputs.asked_again()
    assert inputs.offer(Input(MessageId(2, index=0), b"", {})) is Offer.TAKEN
    assert inputs.offer(Input(MessageId(0, ledger_id=6), b"", {})) is Offer.DOUBTFUL


def test_a_partition_that_was_read_elsewhere_while_in_doubt_is_read_on() -> None:
    """Others have acknowledged what was in doubt: nothing comes at or before it any more."""
    inputs = _started()
    assert inputs.offer(_input(3)) is Offer.DOUBTFUL
    inputs.asked_again()
    for _ in range(3):  # nobody answers one that does not read the partition
        inputs.asked_again()
    assert inputs.in_doubt
    assert inputs.offer(_input(100)) is Offer.DOUBTFUL
    inputs.asked_again()
    assert inputs.offer(_input(101)) is Offer.DOUBTFUL
    assert inputs.offer(_input(100)) is Offer.TAKEN
    assert inputs.offer(_input(101)) is Offer.TAKEN


def test_an_old_doubt_does_not_make_a_beginning_of_what_follows_anothers_inputs() -> None:
    inputs = _started()
    assert inputs.offer(_input(30)) is Offer.DOUBTFUL
    for _ in range(2):
        inputs.asked_again()
    # Another instance was handed 1 to 22 and is gone: the broker goes on, and then begins anew.
    assert inputs.offer(_input(23)) is Offer.DOUBTFUL
    inputs.asked_again()
    assert inputs.offer(_input(24)) is Offer.DOUBTFUL
    assert inputs.offer(_input(1)) is Offer.TAKEN


@given(st.permutations(range(6)))
def test_confirmations_in_any_order_release_inputs_in_log_order(order: list[int]) -> None:
    inputs = PartitionInputs()
    outputs = [Output("a", "test"), Output("b", "test")]
    items = [_input(n) for n in range(6)]
    inputs.offer(_input(0))
    inputs.asked_again()
    for item in items:
        assert inputs.offer(item) is Offer.TAKEN
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
    inputs = _started(1)
    (item,) = inputs
    assert _entries(inputs.take_confirmed()) == []
    item.applied = True
    assert _entries(inputs.take_confirmed()) == [1]
    assert inputs.offer(_input(1)) is Offer.KNOWN
    assert len(inputs) == 0


def test_an_input_delivered_again_while_pending_is_acknowledged_under_both_ids() -> None:
    inputs = _started(1)
    (first,), again = inputs, _input(1)
    inputs.offer(_input(2))
    assert inputs.offer(again) is Offer.KNOWN
    assert first.message_ids == [*first.message_ids[:1], *again.message_ids]
