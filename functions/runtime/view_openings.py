"""Openings of outputs in the background, for views that have no rows to be sent.

Taking over a view's partition takes some milliseconds, and after a restart all views want it at
once. Rows cannot wait and open their outputs at once; heartbeats can, so their openings go on
beside the worker, a bounded number at a time. An output belongs to its opening until that has
ended, and to the worker from then on.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pulsar

from functions.runtime.view_output import ViewOutput


class ViewOpenings:
    """The openings under way for one partition; used by the worker's thread only.

    Args:
        openers: the threads that open.
        client: the functions' own.
        most: how many openings at a time.
    """

    def __init__(self, openers: ThreadPoolExecutor, client: pulsar.Client, most: int) -> None:
        self._openers = openers
        self._client = client
        self._most = most
        self._under_way: dict[str, tuple[ViewOutput, Future[None]]] = {}

    def begin(self, view_id: str, output: ViewOutput) -> None:
        """Open a view's output, unless that goes on already or enough others do."""
        if view_id not in self._under_way and len(self._under_way) < self._most:
            opening = self._openers.submit(output.open, self._client)
            self._under_way[view_id] = (output, opening)

    def close(self) -> None:
        """Close what has been and will be opened."""
        for output, opening in self._under_way.values():
            opening.add_done_callback(partial(_close, output))
        self._under_way.clear()

    def take(self, view_id: str) -> ViewOutput | None:
        """The output of a view that is being opened, once that has ended; it may have failed."""
        if view_id not in self._under_way:
            return None
        output, opening = self._under_way.pop(view_id)
        opening.exception()
        return output

    def settle(self, outputs: dict[str, ViewOutput]) -> list[str]:
        """Add what has been opened to `outputs`; the views for which it failed.

        A failure is no error of the view's rows: those open the output again and tell.
        """
        failed = []
        for view_id, (output, opening) in list(self._under_way.items()):
            if opening.done():
                del self._under_way[view_id]
                if opening.exception() is None:
                    broken = outputs.get(view_id)
                    if broken is not None:
                        broken.close()
                    outputs[view_id] = output
                else:
                    output.close()
                    failed.append(view_id)
        return failed


def _close(output: ViewOutput, _opening: "Future[None]") -> None:
    output.close()
