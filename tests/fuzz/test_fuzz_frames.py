"""The fuzzer in a short form: it runs, covers the decoder, and finds nothing."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from frame_check import check_frame
from frame_mutations import Mutator, messages, seeds

FUZZER = Path(__file__).with_name("fuzz_frames.py")
RUNS = 2_000


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this system"
)
def test_some_thousand_guided_inputs_break_nothing(tmp_path: Path) -> None:
    command = [sys.executable, str(FUZZER), f"--runs={RUNS}", "--seconds=60", "--seed=1"]
    command += [f"--corpus={tmp_path / 'corpus'}", f"--artifacts={tmp_path}"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert answer.returncode == 0, answer.stderr[-4000:]
    done = re.search(r"Done (\d+) runs", answer.stderr)
    assert done, answer.stderr[-4000:]
    assert int(done[1]) > 100
    assert not list(tmp_path.glob("crash-*"))


def test_the_seeds_are_frames_and_each_is_read_as_what_it_is() -> None:
    outcomes = [check_frame(frame) for frame in seeds()]
    heartbeats = 6
    assert outcomes[:-heartbeats] == ["ok"] * (len(outcomes) - heartbeats)
    assert outcomes[-heartbeats:] == ["unknown_kind"] * heartbeats


def test_a_mutation_is_decided_by_its_seed_and_most_reach_beyond_the_first_refusal() -> None:
    frame = seeds()[0]
    mutator = Mutator()
    mutants = [mutator(frame, 1 << 16, seed) for seed in range(300)]
    assert mutants == [Mutator()(frame, 1 << 16, seed) for seed in range(300)]
    assert len(set(mutants)) > 200
    assert len({check_frame(mutant) for mutant in mutants}) >= 5


def test_messages_put_together_again_are_the_stream() -> None:
    for frame in seeds():
        parts = messages(frame)
        assert len(parts) >= 2
        assert b"".join(parts) == frame[: len(frame) - 8]
    assert messages(b"no stream") == [b"no stream"]
