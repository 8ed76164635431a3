"""Recovery of the sequencer where a real broker cannot be brought to misbehave on demand.

Retention that has removed the end of a log, and a frame that is stored but not yet readable, take
days or a failing bookie to cause; here a fake client answers as the broker does then. Everything
else of recovery is tested against a real broker (tests/integration/test_sequencer.py).
"""

from typing import Any

import pulsar
import pytest
from events import trades

from functions.operators.sequence import with_sequences
from functions.operators.state import PartitionState
from functions.runtime import sequence_log
from functions.runtime.outputs import NotYetReadable, Output
from functions.runtime.sequence_log import encode_snapshot, recover_state
from marketdata.frames import encode_frame

LOG, STATE = "log-partition-1", "state-partition-1"


class Message:
    def __init__(self, entry_id: int, data: bytes, properties: dict[str, str]) -> None:
        self._entry_id, self._data, self._properties = entry_id, data, properties

    def data(self) -> bytes:
        return self._data

    def properties(self) -> dict[str, str]:
        return self._properties

    def message_id(self) -> pulsar.MessageId:
        return pulsar.MessageId(1, 7, self._entry_id, -1)


class Reader:
    def __init__(self, messages: list[Message], start: pulsar.MessageId, *, newest: bool) -> None:
        self._messages = (
            messages[-1:] if newest else [m for m in messages if self._behind(m, start)]
        )

    @staticmethod
    def _behind(message: Message, start: pulsar.MessageId) -> bool:
        return start.entry_id() < message.message_id().entry_id()

    def has_message_available(self) -> bool:
        return bool(self._messages)

    def read_next(self, _: int) -> Message:
        return self._messages.pop(0)

    def close(self) -> None:
        pass


class Client:
    """Answers readers from lists of messages."""

    def __init__(self, **topics: list[Message]) -> None:
        self._topics = topics

    def create_reader(self, topic: str, start: pulsar.MessageId, **options: Any) -> Reader:
        newest = bool(options.get("start_message_id_inclusive"))
        return Reader(self._topics[topic.split("-", 1)[0]], start, newest=newest)


def _frame(state: PartitionState, entry_id: int, names: list[str]) -> Message:
    batch = trades(names)
    sequenced = with_sequences(
        batch,
        "trade",
        state.sequences.assign(batch),
        epoch=state.sequences.epoch,
        ts_sequenced_ns=1,
    )
    data = encode_frame(sequenced).to_pybytes()
    return Message(entry_id, data, {"position": str(entry_id * 10)})


def _snapshot(state: PartitionState, entry_id: int) -> Message:
    where = pulsar.MessageId(1, 7, entry_id, -1)
    data, properties = encode_snapshot(state.snapshot(), entry_id * 10, where)
    return Message(0, data, properties)


def _log(position: int) -> Output:
    log = Output(LOG, "sequencer")
    log.position = position
    return log


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence_log, "STORED_TIMEOUT_S", 0.05)


def test_a_log_whose_end_retention_removed_goes_on_in_a_new_epoch() -> None:
    state = PartitionState(epoch=4)
    _frame(state, 1, ["A", "A"])
    client = Client(log=[], state=[_snapshot(state, 1)])
    found = recover_state(client, _log(90), STATE)
    assert (found.lost, found.position, found.state.sequences.epoch) == (True, 90, 5)
    assert found.state.sequences.last("A") == 0


def test_a_frame_that_is_stored_but_not_readable_yet_is_waited_for() -> None:
    state = PartitionState()
    client = Client(log=[_frame(state, 1, ["A"])], state=[])
    with pytest.raises(NotYetReadable, match="read up to 10, stored is 20"):
        recover_state(client, _log(20), STATE)


def test_frames_behind_the_snapshot_are_absorbed_and_foreign_ones_passed_over() -> None:
    state = PartitionState(epoch=2)
    frames = [_frame(state, 1, ["A", "B"])]
    snapshot = _snapshot(state, 1)
    frames += [_frame(state, 2, ["A"]), Message(3, b"not ours", {})]
    found = recover_state(Client(log=frames, state=[snapshot]), _log(20), STATE)
    assert (found.position, found.frames, found.lost) == (20, 1, False)
    assert [found.state.sequences.last(name) for name in "AB"] == [2, 1]
    assert found.state.sequences.epoch == 2


@pytest.mark.parametrize("damaged", [Message(0, b"", {}), Message(0, b"x", {"log_entry": "1:2"})])
def test_a_snapshot_that_cannot_be_used_is_replaced_by_the_whole_log(damaged: Message) -> None:
    state = PartitionState()
    frames = [_frame(state, n, ["A"]) for n in range(1, 4)]
    found = recover_state(Client(log=frames, state=[damaged]), _log(30), STATE)
    assert (found.state.sequences.last("A"), found.frames) == (3, 3)
