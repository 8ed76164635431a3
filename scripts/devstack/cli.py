"""The commands of `scripts/dev.py`, run in the project's virtual environment.

Exit codes: 0 done, 1 something failed (or a test, a check, the demo did), 2 wrong usage,
130 interrupted. `status` is 0 when everything serves and 1 when something does not.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from scripts.devstack.component import CHECKOUT, process_environment
from scripts.devstack.console import Console
from scripts.devstack.errors import StackError, UsageError
from scripts.devstack.logs import log_files, show
from scripts.devstack.stack import Stack

_PASSING = ("demo", "test")
_EVERY_TEST = ("--numprocesses=2", "--max-worker-restart=0", "--cov", "--cov-report=term")
"""Those on the stack, which wait a lot, beside the others; and the coverage that all together must
reach. A choice of tests (arguments of one's own) need not."""

_CHECKS: Mapping[str, Sequence[str]] = {
    "format": ("ruff", "format", "--check"),
    "lint": ("ruff", "check"),
    "types": ("mypy",),
    "imports": ("lint-imports",),
    "dependencies": ("deptry", "."),
}


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    own, passed = _split(arguments)
    options = _parser().parse_args(own)
    options.passed = passed
    # A terminated command cleans up like an interrupted one.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return int(_COMMANDS[options.command](options))
    except UsageError as error:
        print(error.report(), file=sys.stderr)
        return 2
    except StackError as error:
        print(error.report(), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the command again to go on", file=sys.stderr)
        return 130


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split off what follows `demo` or `test`: that belongs to the demo or to pytest."""
    for index, argument in enumerate(arguments):
        if argument in _PASSING and (index == 0 or arguments[index - 1] != "--home"):
            passed = list(arguments[index + 1 :])
            if passed[:1] == ["--"]:
                passed = passed[1:]
            return list(arguments[: index + 1]), passed
        if not argument.startswith("-") and (index == 0 or arguments[index - 1] != "--home"):
            break
    return list(arguments), []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dev.py", description="The local stack: real Pulsar, PostgreSQL and control plane."
    )
    parser.add_argument(
        "--home",
        type=Path,
        default=None,
        help="where state, data and logs are kept (default: DDS_HOME, else .dds in the checkout; "
        "for test .dds-test)",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start what is down; nothing when everything serves")
    up.add_argument(
        "--secure",
        action="store_true",
        help="with TLS, authentication and authorization; the stack keeps them until its reset",
    )
    commands.add_parser("down", help="end every process; data stays")
    status = commands.add_parser("status", help="say what serves, where, with which process")
    status.add_argument("--json", action="store_true", help="print JSON")
    logs = commands.add_parser("logs", help="show the logs of one component or function, or all")
    logs.add_argument("component", nargs="?")
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what is added")
    logs.add_argument("-n", "--lines", type=int, default=50, help="lines of each log (default 50)")
    reset = commands.add_parser("reset", help="take down and delete all data of this stack")
    reset.add_argument("--yes", action="store_true", help="do not ask")
    commands.add_parser("env", help="print export lines that point a shell at this stack")
    commands.add_parser("check", help="format, lint, types, imports and dependencies")
    commands.add_parser("demo", help="up, then the demo; further arguments are the demo's")
    commands.add_parser("test", help="up, every test, down; further arguments are pytest's")
    return parser


def _home(options: argparse.Namespace, default: str = ".dds") -> Path:
    if options.home is not None:
        return Path(options.home)
    if default == ".dds" and os.environ.get("DDS_HOME"):
        return Path(os.environ["DDS_HOME"])
    return CHECKOUT / default


def _up(options: argparse.Namespace) -> int:
    console = Console()
    stack = Stack(_home(options), console=console)
    if not stack.up(secure=options.secure):
        console.line("  ✓ everything is up already")
    _table(stack)
    return 0


def _down(options: argparse.Namespace) -> int:
    console = Console()
    if not Stack(_home(options), console=console).down():
        console.line("  ✓ nothing was running")
    return 0


def _status(options: argparse.Namespace) -> int:
    stack = Stack(_home(options))
    if options.json:
        rows = [asdict(row) for row in stack.status()]
        document = {"home": str(stack.home), "components": {row.pop("name"): row for row in rows}}
        print(json.dumps(document, indent=2, default=str))
        healthy = all(row["state"] in {"up", "external"} for row in rows)
        return 0 if healthy else 1
    return 0 if _table(stack) else 1


def _table(stack: Stack) -> bool:
    rows = stack.status()
    print(f"{'component':<14} {'state':<10} {'pid':>8}  address")
    for row in rows:
        addresses = "  ".join(row.urls.values()) or f"log: {row.log}"
        print(f"{row.name:<14} {row.state:<10} {row.pid or '-':>8}  {addresses}")
    return all(row.state in {"up", "external"} for row in rows)


def _logs(options: argparse.Namespace) -> int:
    files = log_files(Stack(_home(options)).home / "logs", options.component)
    show(files, lines=options.lines, follow=options.follow)
    return 0


def _reset(options: argparse.Namespace) -> int:
    stack = Stack(_home(options))
    if not options.yes:
        if not sys.stdin.isatty():
            raise UsageError(
                f"reset deletes everything below {stack.home}", hint="confirm with --yes"
            )
        if input(f"delete everything below {stack.home}? [y/N] ").strip().lower() != "y":
            print("nothing was deleted")
            return 1
    stack.reset()
    return 0


def _env(options: argparse.Namespace) -> int:
    for name, value in Stack(_home(options)).environment().items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def _demo(options: argparse.Namespace) -> int:
    stack = Stack(_home(options), console=Console())
    stack.up()
    command = [sys.executable, str(CHECKOUT / "scripts" / "demo.py"), *options.passed]
    return _call(command, stack.environment(), cwd=Path.cwd())


def _test(options: argparse.Namespace) -> int:
    home = _home(options, ".dds-test").expanduser().resolve()
    keep = bool(os.environ.get("DDS_KEEP_STACK"))
    stack = Stack(home, console=Console())
    try:
        if not options.passed:
            # A part of the tests may need no stack; those that do bring it up themselves.
            stack.up()
        command = [sys.executable, "-m", "pytest", *(options.passed or _EVERY_TEST)]
        return _call(command, {"DDS_TEST_HOME": str(home)}, cwd=CHECKOUT)
    finally:
        if not keep:
            stack.down()


def _check(_options: argparse.Namespace) -> int:
    console = Console()
    failed = []
    for name, command in _CHECKS.items():
        console.line(f"… {name}: {' '.join(command)}")
        tool = str(Path(sys.executable).parent / command[0])
        if _call([tool, *command[1:]], {}, cwd=CHECKOUT) != 0:
            failed.append(name)
    console.line(f"✗ failed: {', '.join(failed)}" if failed else "✓ all checks passed")
    return 1 if failed else 0


def _call(command: Sequence[str], extra: Mapping[str, str], *, cwd: Path) -> int:
    """Run a command in the foreground; Ctrl-C reaches it, and we wait for its end."""
    with subprocess.Popen(command, env=process_environment(extra), cwd=cwd) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)
            raise


_COMMANDS = {
    "up": _up,
    "down": _down,
    "status": _status,
    "logs": _logs,
    "reset": _reset,
    "env": _env,
    "check": _check,
    "demo": _demo,
    "test": _test,
}
