"""The command line passes the demo's and pytest's arguments through and refuses what is wrong."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.devstack import cli
from scripts.devstack.bootstrap import ensure_environment, stamp_of
from scripts.devstack.console import Console

CHECKOUT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("arguments", "own", "passed"),
    [
        (["demo", "--json", "x"], ["demo"], ["--json", "x"]),
        (["test", "--", "-k", "frames"], ["test"], ["-k", "frames"]),
        (["--home", "h", "test", "-x"], ["--home", "h", "test"], ["-x"]),
        (["--home", "demo", "up"], ["--home", "demo", "up"], []),
        (["logs", "demo"], ["logs", "demo"], []),
        (["test"], ["test"], []),
    ],
)
def test_arguments_after_demo_and_test_are_theirs(
    arguments: list[str], own: list[str], passed: list[str]
) -> None:
    assert cli._split(arguments) == (own, passed)


def test_env_prints_lines_for_a_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--home", str(tmp_path / "a b"), "env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"export DDS_HOME='{tmp_path / 'a b'}'" in lines
    assert all(line.startswith("export DDS_") for line in lines)


def test_status_of_a_stack_that_never_was_up_is_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DDS_PULSAR_SERVICE_URL", "DDS_PULSAR_ADMIN_URL", "DDS_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    assert cli.main(["--home", str(tmp_path), "status"]) == 1
    assert capsys.readouterr().out.count(" down ") == 3


def test_half_a_broker_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDS_PULSAR_SERVICE_URL", "pulsar://broker:6650")
    monkeypatch.delenv("DDS_PULSAR_ADMIN_URL", raising=False)
    assert cli.main(["--home", str(tmp_path), "up"]) == 2
    assert "what to do:" in capsys.readouterr().err


def test_reset_without_a_terminal_wants_yes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert cli.main(["--home", str(tmp_path), "reset"]) == 2
    assert "--yes" in capsys.readouterr().err


def test_a_filled_environment_is_used_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "requirements.lock").write_text("")
    (tmp_path / "pyproject.toml").write_text("")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    (tmp_path / ".venv" / "dds-stamp").write_text(stamp_of(tmp_path))
    assert ensure_environment(tmp_path, Console(quiet=True)) == python


def test_a_changed_lock_file_changes_the_stamp(tmp_path: Path) -> None:
    (tmp_path / "requirements.lock").write_text("a")
    (tmp_path / "pyproject.toml").write_text("")
    before = stamp_of(tmp_path)
    (tmp_path / "requirements.lock").write_text("b")
    assert stamp_of(tmp_path) != before


def test_the_bootstrap_needs_the_standard_library_only() -> None:
    code = "import scripts.devstack.bootstrap, sys; print('psutil' in sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout == "False\n"
