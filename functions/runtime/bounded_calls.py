"""Calls that are waited for a bounded time only, however long they take.

Python cannot interrupt a call. So it runs in another thread; when its time is over the caller goes
on, the thread is left behind and ends when the call comes back, whose result nobody looks at. What
this cannot bound: code outside Python that keeps the interpreter to itself (a C function that holds
the GIL) holds up the whole process; a call that never comes back keeps its memory and takes its
share of the processor until the process ends.
"""

from collections.abc import Callable
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class Call(Generic[Result]):
    """One call, under way or over."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self._work = work
        self._over = Event()
        self._result: Result | None = None
        self._error: BaseException | None = None

    @property
    def is_over(self) -> bool:
        """Whether it has come back."""
        return self._over.is_set()

    def run(self) -> None:
        """Do the work."""
        try:
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001 - told to whoever waits
            self._error = error
        finally:
            self._over.set()

    def result(self, seconds: float) -> Result:
        """What the work gave, or what it raised.

        Raises:
            TimeoutError: it has not come back in time.
        """
        if not self._over.wait(seconds):
            raise TimeoutError
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]


class BoundedCalls:
    """Runs calls one after the other; used by one thread."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Call[Any] | None] | None = None

    def start(self, work: Callable[[], Result]) -> Call[Result]:
        """Begin a call; the one before must be over, or left behind."""
        if self._calls is None:
            self._calls = SimpleQueue()
            Thread(target=_work, args=(self._calls,), name="custom", daemon=True).start()
        call = Call(work)
        self._calls.put(call)
        return call

    def leave_behind(self) -> None:
        """Let the call that is under way go on by itself; its thread ends with it."""
        if self._calls is not None:
            self._calls.put(None)
            self._calls = None


def _work(calls: "SimpleQueue[Call[Any] | None]") -> None:
    while (call := calls.get()) is not None:
        call.run()
        del call
