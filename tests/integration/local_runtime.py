"""Functions in this process, driven the way Pulsar's Python runtime drives them.

The deployed functions run in processes of the broker; here the same classes run against the same
real broker but under the test's eyes, on topics of their own. `LocalInstance` stands for
`python_instance.PythonInstance`: a Failover consumer with a listener, a queue of one, one thread.
"""

import asyncio
import atexit
import contextlib
import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import pulsar

from control_plane.pulsar_admin import PulsarAdmin
from functions.runtime.function import FrameFunction
from marketdata.control_frames import is_control
from marketdata.topics import partition_topic

TENANT = "functest"


class Cluster:
    """Topics of a test: those of the functions, and of views."""

    def __init__(self, service_url: str, admin_url: str, partitions: int = 2) -> None:
        self.service_url = service_url
        self.partitions = partitions
        self.client = connect(service_url)
        self.admin_url = admin_url
        base = f"persistent://{TENANT}/{uuid.uuid4().hex[:8]}"
        self._namespace = base.removeprefix("persistent://")
        names = (
            "ingest",
            "sequenced",
            "deadletter",
            "state",
            "plans",
            "status",
            "ordering",
            "resend",
            "confirmed",
        )
        self.topics = {name: f"{base}/{name}" for name in names}
        asyncio.run(self._create())

    async def _create(self) -> None:
        async with PulsarAdmin(self.admin_url) as admin:
            if TENANT not in await admin.tenants():
                await admin.create_tenant(TENANT, await admin.clusters(), [])
            await admin.create_namespace(self._namespace)
            await admin.set_namespace_policy(self._namespace, "deduplication", True)
            for name, topic in self.topics.items():
                single = name in ("plans", "status", "resend", "confirmed")
                await admin.create_topic(topic, partitions=0 if single else self.partitions)

    def usurp(self, topic: str, producer_name: str) -> None:
        """Fence the owner of an output, hold it for a moment, and go away."""

        def take() -> pulsar.Producer | None:
            with contextlib.suppress(pulsar.ProducerBusy):  # the owner is just taking it back
                return self.client.create_producer(
                    topic,
                    producer_name=producer_name,
                    access_mode=pulsar.ProducerAccessMode.ExclusiveWithFencing,
                )
            return None

        usurper = eventually(take)
        time.sleep(0.2)
        usurper.close()

    def create_view(self, view_id: str) -> str:
        """The topic of a view, created."""
        topic = f"persistent://{self._namespace}/view-{view_id}"

        async def create() -> None:
            async with PulsarAdmin(self.admin_url) as admin:
                await admin.create_topic(topic, partitions=self.partitions)

        asyncio.run(create())
        return topic

    def send(self, topic: str, partition: int, *payloads: bytes, **options: Any) -> None:
        """Publish payloads to one partition and wait until they are stored."""
        producer = self.client.create_producer(
            partition_topic(topic, partition), batching_enabled=False
        )
        for payload in payloads:
            producer.send(payload, **options)
        producer.close()

    def read(self, topic: str) -> list[pulsar.Message]:
        """All messages of a topic partition or topic without partitions, but control frames."""
        return [m for m in self.read_all(topic) if not is_control(m.properties())]

    def read_all(self, topic: str) -> list[pulsar.Message]:
        """All messages of a topic partition or topic without partitions."""
        reader = self.client.create_reader(topic, pulsar.MessageId.earliest)
        messages = []
        while reader.has_message_available():
            messages.append(reader.read_next(5_000))
        reader.close()
        return messages

    def read_partition(self, name: str, partition: int) -> list[pulsar.Message]:
        """All messages of one partition of a named topic."""
        return self.read(partition_topic(self.topics[name], partition))


def connect(service_url: str) -> pulsar.Client:
    """A client that logs only errors."""
    return pulsar.Client(service_url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))


class Context:
    """What the runtime hands a function, as far as the functions use it."""

    def __init__(
        self, client: pulsar.Client, consumers: dict[str, Any], config: Any, name: str
    ) -> None:
        self.consumers = consumers
        self.message: pulsar.Message | None = None
        self.metrics: dict[str, float] = {}
        self._client = client
        self._config = config
        self._name = name

    def get_pulsar_client(self) -> pulsar.Client:
        return self._client

    def get_user_config_map(self) -> Any:
        return self._config

    def get_logger(self) -> logging.Logger:
        return logging.getLogger("function")

    def get_function_name(self) -> str:
        return self._name

    def get_instance_id(self) -> str:
        return "0"

    def record_metric(self, name: str, value: float) -> None:
        self.metrics[name] = self.metrics.get(name, 0) + value


class LocalInstance:
    """One instance of a function.

    It is deployed under `name`, which its subscription has, too; that of its class if absent.
    `passed_over` messages are not handed on when they come for the first time: a broker does that
    to a consumer which takes a partition over, when the old owner has them and acknowledged none.
    """

    def __init__(
        self,
        cluster: Cluster,
        function: type[FrameFunction],
        input_name: str,
        *,
        passed_over: int = 0,
        name: str | None = None,
        **config: Any,
    ) -> None:
        name = name or function.name
        self.client = connect(cluster.service_url)
        self.contextimpl: Context | None = None
        self._queue: queue.Queue[pulsar.Message] = queue.Queue(1)
        self._passed_over = passed_over
        self.consumer = self.client.subscribe(
            cluster.topics[input_name],
            name,
            consumer_type=pulsar.ConsumerType.Failover,
            initial_position=pulsar.InitialPosition.Earliest,
            message_listener=self._listen,
        )
        topics = dict(cluster.topics)
        # Numbers come back from the admin API as floats.
        settings = {"partitions": float(cluster.partitions), "topics": topics, **config}
        self.function = function()
        consumers = {cluster.topics[input_name]: self.consumer}
        self.context = Context(self.client, consumers, settings, name)
        self.contextimpl = self.context
        threading.Thread(target=self._execute, daemon=True).start()
        # One left behind by a failed test must not be called back while Python ends.
        atexit.register(self.close)

    def _listen(self, _: Any, message: pulsar.Message) -> None:
        if self._passed_over:
            self._passed_over -= 1
            return
        self._queue.put(message)

    def _execute(self) -> None:
        while True:
            message = self._queue.get()
            self.context.message = message
            self.function.process(message.data(), self.context)

    def close(self) -> None:
        """Cut the instance off, as a crash would: nothing is flushed or handed over."""
        atexit.unregister(self.close)
        parked = threading.Event()

        def park() -> None:
            parked.set()
            threading.Event().wait()

        # Its worker must neither go on with closed clients until the end of the test process, nor
        # open a producer while its client is closed, which the client library does not survive.
        self.function._turn = park
        self.function.wake()
        self.client.close()
        eventually(lambda: hasattr(self.function, "client"))
        parked.wait(10)
        # An opening that is under way would wait for ever for a closed client, and Python, at its
        # end, for the opening.
        if openers := getattr(self.function, "openers", None):
            openers.shutdown(cancel_futures=True)
        self.function.client.close()


def eventually(condition: Callable[[], Any], *, within_s: float = 180.0) -> Any:
    """The first true value of a condition; the machine may be slow, so there is much time."""
    deadline = time.monotonic() + within_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
