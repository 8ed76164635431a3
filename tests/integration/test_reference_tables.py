"""A reference table changes while events flow: each event is enriched by the plan of its frame."""

import bisect
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from test_instrument_sets import Delivered, Flow, neighbours

from scripts.access import authenticate
from scripts.devstack.processes import wait_until
from scripts.devstack.stack import Stack
from scripts.verification.control_api import ControlApi

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

COLUMNS = [
    {"name": "instrument", "type": "text"},
    {"name": "lot", "type": "integer"},
    {"name": "rate", "type": "decimal(4)"},
]


class Table:
    """A table of which every row says the same; remembers from which plan on."""

    def __init__(self, http: httpx.Client, name: str, instruments: list[str]) -> None:
        self._http, self.name, self._instruments = http, name, instruments
        self.plans: list[int] = []
        body = {"name": name, "columns": COLUMNS, "key": ["instrument"]}
        http.post("/reference-tables", json=body).raise_for_status()

    def fill(self, lot: int, method: str = "PUT") -> int:
        """Put a lot into every row; the plan from which it holds."""
        rows = [{"instrument": i, "lot": lot, "rate": f"{lot}.25"} for i in self._instruments]
        answer = self._http.request(method, f"/reference-tables/{self.name}/rows", json=rows)
        answer.raise_for_status()
        plan = int(answer.json()["plan"])
        assert self.plans == sorted(self.plans)
        self.plans.append(plan)
        return plan

    def lot_at(self, plan: int) -> int:
        """What the rows say in a plan."""
        return bisect.bisect_right(self.plans, plan)


@pytest.fixture
def http(stack: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=f"{stack.control_plane_url}/v1", timeout=60, auth=authenticate
    ) as client:
        yield client


def test_every_event_is_enriched_by_the_plan_that_its_frame_names(
    stack: Stack, http: httpx.Client
) -> None:
    names = neighbours(4)
    suffix = uuid.uuid4().hex[:8]
    known, unknown = names[:3], names[3]
    table = Table(http, f"masters-{suffix}", known)
    table.fill(1)
    http.post("/consumers", json={"name": f"desk-{suffix}"}).raise_for_status()
    listed = ", ".join(f"'{name}'" for name in names)
    subscriptions = {}
    for format_ in ("json", "arrow"):
        answer = http.post(
            "/subscriptions",
            json={
                "consumer": f"desk-{suffix}",
                "name": format_,
                "filter": f"instrument IN ({listed})",
                "format": format_,
                "transformation": {
                    "enrich": [{"table": table.name, "columns": {"lot": "lot", "rate": "rate"}}],
                    "compute": {"twice": "lot * 2"},
                    "select": ["instrument", "sequence", "lot", "rate"],
                },
            },
        )
        assert answer.is_success, answer.text
        subscriptions[format_] = answer.json()
    used = http.delete(f"/reference-tables/{table.name}")
    assert used.status_code == 409
    with ControlApi(stack.control_plane_url) as api, Flow(stack.service_url, names) as flow:
        before = stack.function_pids("distributor")

        def is_back() -> bool:
            now = stack.function_pids("distributor")
            return len(now) == len(before) and before[0] not in now

        views = {format_: Delivered(made, known[0]) for format_, made in subscriptions.items()}
        for lot in range(1, 7):
            plan = table.fill(lot, "PUT" if lot % 2 else "PATCH") if lot > 1 else 0
            if lot == 3:
                stack.kill_instance(before[0])
            if lot in (3, 4):
                # It comes back to the plan of then; those in between it never runs.
                flow.pass_by(50)
                continue
            assert lot < 5 or wait_until(is_back, 120)
            api.await_applied(plan, timeout_s=120)
            flow.pass_by(50)
            for view in views.values():
                view.read_until(flow.frames)
    for format_, view in views.items():
        view.read_rest(flow.frames)
        sequences: dict[str, list[int]] = {name: [] for name in names}
        lots = set()
        next_delivery = None
        for properties, events in view.messages:
            first, count = int(properties["delivery_sequence"]), int(properties["count"])
            assert first == (next_delivery or first)
            next_delivery = first + count
            lot = table.lot_at(int(properties["plan"]))
            lots.add(lot)
            for event in events:
                sequences[event["instrument"]].append(event["sequence"])
                expected: tuple[Any, ...] = (lot, lot * 10_000 + 2_500, lot * 2)
                if event["instrument"] == unknown:
                    expected = (None, None, None)
                elif format_ == "json":
                    expected = (lot, f"{lot}.25", lot * 2)  # no zeros at the end
                assert (event["lot"], event["rate"], event["twice"]) == expected
        assert lots >= {1, 2, 5, 6}
        for sequence in sequences.values():
            assert sequence == list(range(1, flow.frames + 1))
    for made in subscriptions.values():
        http.delete(f"/subscriptions/{made['id']}").raise_for_status()
    http.delete(f"/consumers/desk-{suffix}").raise_for_status()
    http.delete(f"/reference-tables/{table.name}").raise_for_status()
