"""What is read of the functions of a cluster that does not answer everything."""

import httpx
import pytest

from control_plane.pulsar_admin import AdminUnavailable, PulsarAdmin
from control_plane.settings import REPOSITORY_ROOT
from control_plane.topology import FunctionState, load_topology, read_actual
from control_plane.topology import actual as reading

NAMESPACE = "marketdata/functions"
NAME = f"{NAMESPACE}/sequencer"
INSTANCES = [
    {"instanceId": 0, "status": {"running": True, "numRestarts": 2}},
    {"instanceId": 1, "status": {"running": False, "numRestarts": 3}},
]


async def read(status: httpx.Response | Exception) -> FunctionState:
    answers = {
        "/admin/v2/clusters": ["standalone"],
        "/admin/v2/tenants": ["marketdata"],
        "/admin/v2/namespaces/marketdata": [NAMESPACE],
        f"/admin/v3/functions/{NAMESPACE}": ["sequencer"],
        f"/admin/v3/functions/{NAME}": {"parallelism": 2},
    }

    def answer(request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/status"):
            return httpx.Response(200, json=answers.get(request.url.path, []))
        if isinstance(status, Exception):
            raise status
        return status

    topology = load_topology(REPOSITORY_ROOT / "topology").only_functions()
    transport = httpx.MockTransport(answer)
    async with PulsarAdmin("http://broker", transport=transport) as admin:
        return (await read_actual(admin, topology)).functions[NAME]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_STATUS_RETRY_FOR_S", 0.0)


async def test_instances_and_how_often_they_were_started_again() -> None:
    document = {"numInstances": 2, "numRunning": 1, "instances": INSTANCES}
    found = await read(httpx.Response(200, json=document))
    assert (found.expected_instances, found.running_instances, found.restarts) == (2, 1, 5)


@pytest.mark.parametrize("status", [404, 503])
async def test_a_function_that_the_worker_has_lost_is_down(status: int) -> None:
    found = await read(httpx.Response(status, json={"reason": "not here"}))
    assert (found.expected_instances, found.running_instances) == (2, 0)


async def test_no_answer_is_not_taken_for_a_function_that_is_down() -> None:
    with pytest.raises(AdminUnavailable):
        await read(httpx.ReadTimeout("slow"))


async def test_a_topic_that_goes_while_topics_are_read_is_not_there() -> None:
    """The control plane removes the topics of views that are gone at any time."""
    stays, goes = (f"persistent://marketdata/delivery/view-{n}" for n in (1, 2))
    answers = {
        "/admin/v2/persistent/marketdata/delivery/partitioned": [stays, goes],
        "/admin/v2/persistent/marketdata/delivery": [f"{stays}-partition-0"],
        "/admin/v2/persistent/marketdata/delivery/view-1/partitions": {"partitions": 1},
    }

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path in answers:
            return httpx.Response(200, json=answers[request.url.path])
        return httpx.Response(404, json={"reason": "Topic not found"})

    transport = httpx.MockTransport(answer)
    async with PulsarAdmin("http://broker", transport=transport) as admin:
        found = await reading._topics(admin, "marketdata/delivery")
    assert [(topic.name, topic.partitions) for topic in found] == [(stays, 1)]
