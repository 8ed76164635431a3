"""Processes that publish and consume for a benchmark: commands in, answers out, a JSON line each.

A worker is a module run as `python -m benchmarks.NAME`; it ends when its standard input does, so
nothing is left behind when a benchmark dies.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from benchmarks.figures import BenchmarkFailed
from scripts.devstack.component import CHECKOUT, process_environment

Answer = dict[str, Any]


class Worker:
    """One worker process. A context manager that ends it.

    Args:
        module: below `benchmarks`.
        log: file for what it prints besides its answers.
    """

    def __init__(self, module: str, log: Path) -> None:
        self._name = module
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"benchmarks.{module}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=CHECKOUT,
                env=process_environment(),
            )
        self._unread = b""

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def tell(self, command: str, **arguments: Any) -> None:
        """Send a command without waiting for its answer."""
        stdin = _stream(self._process.stdin)
        try:
            stdin.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
            stdin.flush()
        except OSError as error:
            raise self._failure("ended early") from error

    def answer(self, *, timeout_s: float) -> Answer:
        """The answer to the oldest unanswered command.

        Raises:
            BenchmarkFailed: the worker failed, ended, or did not answer in time.
        """
        stdout = _stream(self._process.stdout)
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            ready, _, _ = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise self._failure(f"gave no answer in {timeout_s:.0f} s")
            block = os.read(stdout.fileno(), 1 << 16)
            if not block:
                raise self._failure("ended early")
            self._unread += block
        line, _, self._unread = self._unread.partition(b"\n")
        answer: Answer = json.loads(line)
        if "failure" in answer:
            raise self._failure(f"failed: {answer['failure']}")
        return answer

    def ask(self, command: str, *, timeout_s: float, **arguments: Any) -> Answer:
        """Send a command and wait for its answer."""
        self.tell(command, **arguments)
        return self.answer(timeout_s=timeout_s)

    def close(self) -> None:
        """End the process, by force when it does not end by itself."""
        for stream in (self._process.stdin, self._process.stdout):
            try:
                _stream(stream).close()
            except OSError:
                # It has ended already and left something unread.
                continue
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _failure(self, what: str) -> BenchmarkFailed:
        return BenchmarkFailed(f"the worker {self._name} {what}; its log is {self._log}")


def serve(commands: Mapping[str, Callable[..., Answer]]) -> None:
    """The loop of a worker: run commands until standard input ends.

    Whatever else writes to standard output (the Pulsar client's C++ part does) is sent to standard
    error, so that answers stay readable.
    """
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            arguments = json.loads(line)
            try:
                answer = commands[arguments.pop("command")](**arguments)
            except Exception as error:  # noqa: BLE001 - the benchmark decides what to do
                traceback.print_exc()
                answer = {"failure": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), file=answers, flush=True)


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None, "both pipes are asked for"
    return stream
