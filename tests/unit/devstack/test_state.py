"""`stack.json` survives interruptions; the lock goes with its holder."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from scripts.devstack.errors import StackError
from scripts.devstack.processes import Identity
from scripts.devstack.state import State, exclusive

CHECKOUT = Path(__file__).resolve().parents[3]


def test_an_absent_file_is_an_empty_state(tmp_path: Path) -> None:
    assert State.load(tmp_path / "stack.json") == State()


def test_what_is_saved_is_loaded_and_only_the_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "stack.json"
    state = State(
        components={"pulsar": {"pid": 1, "created_at_s": 2.5}},
        ports={"pulsar": 6650},
        fingerprints={"migrate": "x"},
    )
    state.save(path)
    assert State.load(path) == state
    assert path.stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_file_is_reported_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "stack.json"
    path.write_text("{")
    with pytest.raises(StackError) as caught:
        State.load(path)
    assert str(path) in caught.value.report()
    assert "delete" in caught.value.hint


def test_a_recorded_process_that_is_gone_has_no_identity() -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        identity = Identity.of(process.pid)
        process.wait()
    assert identity is not None
    record = {"pid": identity.pid, "created_at_s": identity.created_at_s}
    assert State(components={"pulsar": record}).identity("pulsar") is None


def test_a_second_holder_waits_and_is_told_for_whom(tmp_path: Path) -> None:
    told: list[str] = []
    entered = threading.Event()

    def second() -> None:
        with exclusive(tmp_path / "lock", waiting=told.append):
            entered.set()

    with exclusive(tmp_path / "lock", waiting=told.append):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.3)
    thread.join(5)
    assert entered.is_set()
    assert len(told) == 1
    assert told[0].startswith("process ")


def test_the_lock_of_a_killed_holder_is_free(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from scripts.devstack.state import exclusive\n"
        "with exclusive(Path(sys.argv[1]), waiting=print):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.send_signal(signal.SIGKILL)
    with exclusive(tmp_path / "lock", waiting=print, timeout_s=5):
        pass
