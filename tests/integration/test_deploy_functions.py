"""deploy_functions.py on a real broker: applies once, finds drift, rolls back what does not run.

Each test has a tenant, a topology and a source folder of its own beside the stack's.
"""

import asyncio
import io
import json
import shutil
import time
import uuid
import zipfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from control_plane.pulsar_admin import AdminError, AdminNotFound, PulsarAdmin
from scripts import deploy_functions

pytestmark = pytest.mark.integration

PROJECT = Path(__file__).resolve().parents[2]
SERDE = """
from pulsar.functions.serde import SerDe

class BytesSerDe(SerDe):
    def serialize(self, input):
        return input

    def deserialize(self, input_bytes):
        return input_bytes
"""
FUNCTION = """
import marketdata
from pulsar import Function

class EchoFunction(Function):
    def process(self, input, context):
        places = f"{__file__} {marketdata.__file__}"
        producer = context.get_pulsar_client().create_producer(
            context.get_user_config_value("topics")["output"]
        )
        producer.send(f"VERSION {places}".encode())
        producer.close()
        context.consumers[context.get_user_config_value("topics")["input"]].acknowledge(
            context.message.message_id()
        )
"""
NAMESPACES = """
tenants:
  TENANT: {}
namespaces:
  TENANT/data:
    dynamic_topics: view-*
    policies:
      retention: {time: 1h, size: 64MiB}
      backlog_quota: {size: 32MiB, age: 30m, policy: consumer_backlog_eviction}
      message_ttl: 1h
      deduplication: true
      compaction_threshold: 1MiB
      persistence: {ensemble: 1, write_quorum: 1, ack_quorum: 1, mark_delete_rate: 1.5}
      schema_compatibility: full
      auto_topic_creation: false
      auto_subscription_creation: false
      inactive_topics: keep
      subscription_expiration: 7d
  TENANT/functions: {}
"""
TOPICS = """
partitions: 2
topics:
  input: {name: TENANT/data/input, partitioned: true, keyed: true}
  output: {name: TENANT/data/output}
"""
FUNCTIONS = """
functions:
  echo:
    namespace: TENANT/functions
    class: functions.echo.EchoFunction
    operators: [echo]
    parallelism: 2
    resources: {cpu: 0.25, ram: 256MiB, disk: 256MiB}
    inputs: [input]
    serde: functions.serde.BytesSerDe
    topics: {input: input, output: output}
    config: {number: 7}
"""


class Project:
    """A tenant of its own with its topology, its sources and the command line."""

    def __init__(self, folder: Path, admin_url: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.tenant = f"deploy{uuid.uuid4().hex[:8]}"
        self.function = f"{self.tenant}/functions/echo"
        self.input = f"persistent://{self.tenant}/data/input"
        self.output = f"persistent://{self.tenant}/data/output"
        self.topology = folder / "topology"
        self.sources = folder / "sources"
        self.admin_url = admin_url
        self._capsys = capsys
        self.topology.mkdir()
        shutil.copy(PROJECT / "topology" / "schema.json", self.topology)
        self.write("namespaces.yaml", NAMESPACES)
        self.write("topics.yaml", TOPICS)
        self.write("functions.yaml", FUNCTIONS)
        for package in ("functions", "marketdata"):
            (self.sources / package).mkdir(parents=True)
            (self.sources / package / "__init__.py").write_text("")
        (self.sources / "functions" / "serde.py").write_text(SERDE)
        self.code("one")

    def write(self, file: str, text: str) -> None:
        (self.topology / file).write_text(text.replace("TENANT", self.tenant))

    def code(self, version: str) -> None:
        path = self.sources / "functions" / "echo.py"
        path.write_text(FUNCTION.replace("VERSION", version))

    def run(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Exit code and JSON document of one command."""
        self._capsys.readouterr()
        options = ["--topology", str(self.topology), "--sources", str(self.sources)]
        options += ["--admin-url", self.admin_url, "--json", "--auto-approve"]
        code = deploy_functions.main([*arguments, *options])
        output = self._capsys.readouterr().out
        return code, json.loads(output)

    def changes(self, *arguments: str) -> list[tuple[str, str, str]]:
        """Action, kind and name of what `plan` shows."""
        _, document = self.run("plan", *arguments)
        return [(each["action"], each["kind"], each["name"]) for each in document["changes"]]

    def by_hand(self, work: Callable[[PulsarAdmin], Awaitable[Any]]) -> Any:
        """Do something behind the topology's back."""

        async def run() -> Any:
            async with PulsarAdmin(self.admin_url) as admin:
                return await work(admin)

        return asyncio.run(run())

    def remove(self) -> None:
        """Leave nothing behind, whatever the test did."""

        async def work(admin: PulsarAdmin) -> None:
            if self.tenant not in await admin.tenants():
                return
            for function in await admin.functions(f"{self.tenant}/functions"):
                await admin.delete_function(f"{self.tenant}/functions/{function}")
            for namespace in await admin.namespaces(self.tenant):
                partitioned = await admin.partitioned_topics(namespace)
                for topic in partitioned:
                    await admin.delete_topic(topic, partitioned=True, force=True)
                for topic in await admin.topics(namespace):
                    if "-partition-" not in topic and "/__" not in topic:
                        await admin.delete_topic(topic, partitioned=False, force=True)
                await admin.delete_namespace(namespace)
            await admin.delete_tenant(self.tenant)

        self.by_hand(work)


@pytest.fixture
def project(stack: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Project]:
    project = Project(tmp_path, stack.admin_url, capsys)
    yield project
    project.remove()


def succeed(outcome: tuple[int, dict[str, Any]]) -> None:
    """Fail with the whole document when a command failed."""
    assert outcome[0] == deploy_functions.DONE, outcome[1].get("error")


def said(service_url: str, project: Project) -> str:
    """What the function answers to one message."""
    import pulsar  # noqa: PLC0415 - the client is wanted by this test alone

    client = pulsar.Client(service_url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    try:
        reader = client.create_reader(project.output, pulsar.MessageId.latest)
        client.create_producer(project.input).send(b"\x80")
        return bytes(reader.read_next(timeout_millis=20_000).data()).decode()
    finally:
        client.close()


def test_apply_creates_everything_once_and_drift_is_found_and_repaired(
    stack: Any, project: Project
) -> None:
    assert project.run("plan")[0] == deploy_functions.CHANGES
    code, document = project.run("apply")
    assert code == deploy_functions.DONE, document.get("error")
    assert document["summary"] == {"add": 7, "change": 0, "destroy": 0}
    assert project.changes() == []
    assert project.run("apply") == (
        deploy_functions.DONE,
        {
            "exit_code": 0,
            "changes": [],
            "summary": {"add": 0, "change": 0, "destroy": 0},
            "events": [],
        },
    )
    answer, module, contract = said(stack.service_url, project).split()
    assert answer == "one"
    assert "/src/functions/echo.py" in module
    assert "/src/marketdata/__init__.py" in contract
    assert _running_and_backlog(project) == (2, 0)

    _drift_of_policies(project)
    _drift_of_topics(project)
    _drift_of_the_function(project)

    succeed(project.run("destroy"))
    assert project.tenant not in project.by_hand(lambda admin: admin.tenants())


def _running_and_backlog(project: Project) -> tuple[int, int | None]:
    """What `status` says; an acknowledgement takes a moment to arrive."""
    deadline = time.monotonic() + 120
    while True:
        _, document = project.run("status")
        (row,) = document["functions"]
        found = row["running"], row["inputs"][0]["backlog_messages"]
        if found[1] == 0 or time.monotonic() > deadline:
            return found


def _drift_of_policies(project: Project) -> None:
    namespace = f"{project.tenant}/data"

    async def alter(admin: PulsarAdmin) -> None:
        quota = {"backlogQuotaType": "destination_storage"}
        await admin.remove_namespace_policy(namespace, "backlogQuota", params=quota)
        body = {"retentionTimeInMinutes": 90, "retentionSizeInMB": 16}
        await admin.remove_namespace_policy(
            namespace, "backlogQuota", params={"backlogQuotaType": "message_age"}
        )
        await admin.set_namespace_policy(namespace, "retention", body)
        await admin.set_namespace_policy(namespace, "messageTTL", 5)
        await admin.remove_namespace_policy(namespace, "deduplication")
        await admin.set_namespace_policy(
            namespace, "schemaCompatibilityStrategy", "BACKWARD", method="PUT"
        )
        await admin.set_namespace_policy(
            f"{project.tenant}/functions", "compactionThreshold", 9, method="PUT"
        )

    project.by_hand(alter)
    code, document = project.run("plan")
    assert code == deploy_functions.CHANGES
    first, second = document["changes"]
    assert [each["name"] for each in first["attributes"]] == [
        "backlog_age.limit_seconds",
        "backlog_age.policy",
        "backlog_size.limit_bytes",
        "backlog_size.policy",
        "deduplication.enabled",
        "message_ttl.seconds",
        "retention.size_mb",
        "retention.time_minutes",
        "schema_compatibility.strategy",
    ]
    assert second["attributes"][0]["name"] == "compaction_threshold.bytes"
    succeed(project.run("apply"))
    assert project.changes() == []


def _drift_of_topics(project: Project) -> None:
    async def alter(admin: PulsarAdmin) -> None:
        await admin.delete_topic(project.output, partitioned=False, force=True)
        await admin.delete_subscription(project.input, "echo", force=True)
        await admin.create_topic(f"persistent://{project.tenant}/data/view-1")
        await admin.create_topic(f"persistent://{project.tenant}/data/stray", partitions=2)
        await admin.create_subscription(project.input, "stray")

    project.by_hand(alter)
    found = project.changes()
    assert ("create", "topic", project.output) in found
    assert all(kind in ("topic", "subscription") for _, kind, _ in found)
    pruned = project.changes("--prune")
    assert ("delete", "topic", f"persistent://{project.tenant}/data/stray") in pruned
    assert ("delete", "subscription", f"{project.input} @ stray") in pruned
    assert not any("view-1" in name for _, _, name in pruned)
    succeed(project.run("apply", "--prune"))
    assert project.changes("--prune") == []


def _drift_of_the_function(project: Project) -> None:
    async def alter(admin: PulsarAdmin) -> None:
        config = await admin.function_config(project.function)
        changed = config | {
            "parallelism": 1,
            "cleanupSubscription": True,
            "userConfig": config["userConfig"] | {"number": 8, "extra": "x"},
        }
        assert await admin.update_function(project.function, changed)

    project.by_hand(alter)
    _, document = project.run("plan")
    (change,) = document["changes"]
    assert change["action"] == "update"
    assert [each["name"] for each in change["attributes"]] == [
        "cleanup_subscription",
        "parallelism",
        "user_config.extra",
        "user_config.number",
    ]
    succeed(project.run("apply"))
    assert project.changes() == []
    project.by_hand(lambda admin: admin.stop_function(project.function))
    _wait_until_stopped(project)
    assert project.changes() == [("restart", "function", project.function)]
    assert project.run("status")[0] == deploy_functions.CHANGES
    succeed(project.run("apply"))


def _wait_until_stopped(project: Project) -> None:
    async def work(admin: PulsarAdmin) -> None:
        async with asyncio.timeout(20):
            while (await admin.function_status(project.function)).running:  # noqa: ASYNC110
                await asyncio.sleep(0.2)  # Pulsar has no event for it

    project.by_hand(work)


def test_new_code_is_deployed_and_code_that_does_not_run_is_rolled_back(
    stack: Any, project: Project
) -> None:
    succeed(project.run("apply"))
    project.code("two")
    _, document = project.run("plan")
    (change,) = document["changes"]
    assert [each["name"] for each in change["attributes"]] == ["user_config.bundle_digest"]
    succeed(project.run("apply"))
    assert said(stack.service_url, project).split()[0] == "two"

    (project.sources / "functions" / "echo.py").write_text("import nothing_of_this_name\n")
    code, document = project.run("apply", "--timeout", "12")
    assert code == deploy_functions.ERROR
    assert document["rolled_back"] == [project.function]
    assert "not every instance runs" in document["error"]
    assert said(stack.service_url, project).split()[0] == "two"
    project.code("two")
    assert project.changes() == []


def test_a_function_that_cannot_be_updated_is_replaced_and_keeps_its_cursor(
    stack: Any, project: Project
) -> None:
    succeed(project.run("apply"))
    code_before = project.by_hand(lambda admin: admin.function_code(project.function))

    async def redeploy(admin: PulsarAdmin) -> None:
        config = await admin.function_config(project.function)
        await admin.delete_function(project.function)
        with zipfile.ZipFile(io.BytesIO(code_before)) as archive:
            name = archive.namelist()[0].split("/")[0]
        while True:
            try:
                config |= {"retainOrdering": False, "py": f"{name}.zip"}
                await admin.create_function(project.function, config, code_before, f"{name}.zip")
            except AdminError:
                await asyncio.sleep(0.3)
            else:
                return

    project.by_hand(redeploy)
    assert project.changes() == [("replace", "function", project.function)]
    succeed(project.run("apply"))
    assert project.changes() == []
    assert "echo" in project.by_hand(lambda admin: admin.subscriptions(project.input))
    assert said(stack.service_url, project).split()[0] == "one"


def test_more_partitions_are_refused_before_anything_is_touched(project: Project) -> None:
    project.write("functions.yaml", "")
    succeed(project.run("apply"))
    project.write("topics.yaml", TOPICS.replace("partitions: 2", "partitions: 4"))
    project.write("namespaces.yaml", NAMESPACES.replace("message_ttl: 1h", "message_ttl: 2h"))
    assert project.run("plan")[0] == deploy_functions.ERROR
    code, document = project.run("apply")
    assert code == deploy_functions.ERROR
    assert "deploy_functions.py grow --partitions 4" in document["error"]
    policies = project.by_hand(lambda admin: admin.namespace_policies(f"{project.tenant}/data"))
    assert policies["message_ttl_in_seconds"] == 3600
    assert project.by_hand(lambda admin: admin.partitions(project.input)) == 2


def test_only_functions_leaves_the_rest_alone(project: Project) -> None:
    project.write("functions.yaml", "")
    succeed(project.run("apply"))
    project.write("functions.yaml", FUNCTIONS)
    project.write("namespaces.yaml", NAMESPACES.replace("message_ttl: 1h", "message_ttl: 2h"))
    kinds = [kind for _, kind, _ in project.changes("--only", "functions")]
    assert kinds == ["subscription", "function"]


def test_nothing_is_destroyed_without_a_yes(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.write("functions.yaml", "")
    succeed(project.run("apply"))
    arguments = ["destroy", "--topology", str(project.topology), "--admin-url", project.admin_url]
    assert deploy_functions.main(arguments) == deploy_functions.DECLINED
    assert "--auto-approve" in capsys.readouterr().err
    assert project.changes() == []


def test_subscriptions_can_be_made_moved_and_deleted(project: Project) -> None:
    project.write("functions.yaml", "")
    succeed(project.run("apply"))

    async def work(admin: PulsarAdmin) -> None:
        for start in ("earliest", "latest"):
            await admin.create_subscription(project.input, start, start=start)
        for to in ("earliest", "latest", 1_700_000_000_000):
            await admin.reset_subscription(project.input, "earliest", to=to)
        stats = await admin.partitioned_stats(project.input)
        assert set(stats.subscriptions) == {"earliest", "latest"}
        assert set(stats.partitions) == {0, 1}
        await admin.delete_subscription(project.input, "earliest")
        with pytest.raises(AdminNotFound):
            await admin.delete_subscription(project.input, "earliest")

    project.by_hand(work)
