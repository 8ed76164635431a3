"""One role of a Pulsar cluster in a container: write its configuration, then become its process.

    serve.py metadata | initialize | bookie | broker | worker
    serve.py healthy ROLE

Configuration is the distribution's own with the few values below in place of its, written to a
folder of the container's memory: the image itself is never written to. What differs between
containers comes from the environment:

    DDS_CLUSTER          name of the cluster
    DDS_METADATA_STORE   host:port of ZooKeeper
    DDS_HOST             this container's name in the network for administration
    DDS_DATA_HOST        broker: its name in the network for data
    DDS_PUBLIC_ADDRESS   broker: host:port under which clients outside reach it
    DDS_BROKER           initialize, worker: the name of the broker in the network for
                         administration; of several, one name that all of them have
    DDS_BROKER_DATA      initialize, worker: the same in the network for data
    DDS_REPLICAS         how many bookies keep each entry
    DDS_ACK_QUORUM       broker: how many of them must have stored it before it is confirmed
                         (default: all)
    DDS_WORKER           broker: `true` runs the functions worker inside the broker

Brokers and functions workers speak TLS only and ask everybody for a token; certificates and tokens
are files in /credentials (scripts/container_credentials.py makes and renews them). Metadata store
and bookies have neither: nobody but the containers of the network for administration reaches them.

Only the standard library is used: it runs on the Python of whatever image it is in.
"""

import json
import os
import re
import shutil
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from secure_broker import BrokerSecurity

PULSAR = Path("/pulsar")
CONF = Path("/run/pulsar")
DATA = PULSAR / "data"
CREDENTIALS = Path("/credentials")
SECURITY = BrokerSecurity(
    certificate=CREDENTIALS / "server.pem",
    key=CREDENTIALS / "server.key",
    authority=CREDENTIALS / "ca.pem",
    public_key=CREDENTIALS / "token-key.der",
    token=CREDENTIALS / "broker.token",
    audience="dds",
    superusers=("broker", "platform"),
)
PYTHON_INSTANCE = PULSAR / "instances" / "python-instance" / "python_instance_main.py"
INSTANCE = Path(__file__).with_name("instance.py")

STATUS = CONF / "status.html"
"""While it exists, a broker that is ready says so to a proxy, which has no token."""

BROKER_PORT, PUBLIC_PORT, ADMIN_PORT, WORKER_PORT, METRICS_PORT = 6650, 6651, 8080, 6750, 8000

LIVENESS_CHECK_MS = 5000
"""As in the local stack (scripts/devstack/pulsar.py), where the reason stands."""


def of(name: str) -> str:
    """A value that this container must be given."""
    value = os.environ.get(name)
    if not value:
        sys.exit(f"serve.py: set {name}; compose.yaml shows how")
    return value


def metadata_store() -> str:
    """ZooKeeper's address as Pulsar takes it."""
    return f"zk:{of('DDS_METADATA_STORE')}"


def zookeeper() -> dict[str, str]:
    """Settings of the metadata store."""
    return {"dataDir": str(DATA / "zookeeper"), "metricsProvider.httpPort": str(METRICS_PORT)}


def bookie() -> dict[str, str]:
    """Settings of a bookie. Its name is its identity: the stored ledgers refer to it."""
    return {
        "zkServers": of("DDS_METADATA_STORE"),
        "advertisedAddress": of("DDS_HOST"),
        "journalDirectory": str(DATA / "journal"),
        "ledgerDirectories": str(DATA / "ledgers"),
        "httpServerEnabled": "true",
        "httpServerPort": str(METRICS_PORT),
        # A bookie that was killed leaves its registration behind for so long.
        "zkTimeout": "10000",
        # Every bookie keeps everything, so there is nowhere to copy to what one of them had; and
        # whoever copies a ledger fences it, which would end the writing that goes on.
        "autoRecoveryDaemonEnabled": "false",
        # 64 MiB beside the reserve that the default of 95 % leaves on small volumes.
        "minUsableSizeForEntryLogCreation": "67108864",
    }


def broker() -> dict[str, str]:
    """Settings of a broker.

    Clients inside reach it by its name in the network for data, clients outside by its published
    port. The admin API listens in the network for administration only: whoever may consume a topic
    could otherwise expire the messages of everybody who reads it.
    """
    inside = f"pulsar+ssl://{of('DDS_DATA_HOST')}:{BROKER_PORT}"
    outside = f"pulsar+ssl://{of('DDS_PUBLIC_ADDRESS')}"
    replicas = of("DDS_REPLICAS")
    return {
        **SECURITY.broker(),
        "clusterName": of("DDS_CLUSTER"),
        "metadataStoreUrl": metadata_store(),
        "configurationMetadataStoreUrl": metadata_store(),
        "metadataStoreSessionTimeoutMillis": "10000",
        "brokerServicePort": "",
        "webServicePort": "",
        "webServicePortTls": str(ADMIN_PORT),
        "statusFilePath": str(STATUS),
        "bindAddress": of("DDS_HOST"),
        "bindAddresses": f"inside:pulsar+ssl://0.0.0.0:{BROKER_PORT},"
        f"outside:pulsar+ssl://0.0.0.0:{PUBLIC_PORT}",
        "advertisedAddress": of("DDS_HOST"),
        "advertisedListeners": f"inside:{inside},outside:{outside}",
        "internalListenerName": "inside",
        "managedLedgerDefaultEnsembleSize": replicas,
        "managedLedgerDefaultWriteQuorum": replicas,
        "managedLedgerDefaultAckQuorum": os.environ.get("DDS_ACK_QUORUM", replicas),
        # A bookie that fails is replaced only when too few others are left to confirm an entry:
        # where all bookies keep everything there is none to take its place, and writing would end.
        "bookkeeper_delayEnsembleChange": "true",
        # How often a cursor's position is stored, in a second: what lies between comes again.
        "managedLedgerDefaultMarkDeleteRateLimit": "1.0",
        "brokerDeleteInactiveTopicsEnabled": "false",
        "allowAutoTopicCreation": "false",
        # A topic that cannot be closed is let go of then (control_plane/fenced_topics.py).
        "namespaceBundleUnloadingTimeoutMs": "10000",
        # Who takes a partition over first gets what is not acknowledged (docs/decisions/0005).
        "activeConsumerFailoverDelayTimeMillis": "0",
        "forceDeleteNamespaceAllowed": "true",
        "forceDeleteTenantAllowed": "true",
        "defaultNumberOfNamespaceBundles": "4",
        "functionsWorkerEnabled": os.environ.get("DDS_WORKER", "false"),
    }


def worker(*, inside_broker: bool) -> dict[str, object]:
    """Settings of a functions worker, in a broker or by itself."""
    host = of("DDS_HOST")
    admin = host if inside_broker else of("DDS_BROKER")
    broker = of("DDS_DATA_HOST") if inside_broker else of("DDS_BROKER_DATA")
    # An embedded worker takes what follows from its broker; one by itself has to be told.
    alone = {
        **SECURITY.server(),
        "authenticationProviders": [SECURITY.server()["authenticationProviders"]],
        "superUserRoles": list(SECURITY.superusers),
        # Without it, whoever shows a token gets an error of the worker's.
        "proxyRoles": [],
        "webServiceTlsProtocols": SECURITY.server()["webServiceTlsProtocols"].split(","),
        "properties": SECURITY.token_checks(),
        "tlsEnableHostnameVerification": True,
    }
    port = ADMIN_PORT if inside_broker else WORKER_PORT
    return {
        **({} if inside_broker else alone),
        "workerId": host,
        "workerHostname": host,
        "workerPort": port if inside_broker else None,
        "workerPortTls": port,
        "useTls": True,
        "tlsEnabled": True,
        "brokerClientAuthenticationEnabled": True,
        "configurationMetadataStoreUrl": metadata_store(),
        "pulsarServiceUrl": f"pulsar+ssl://{broker}:{BROKER_PORT}",
        "pulsarWebServiceUrl": f"https://{admin}:{ADMIN_PORT}",
        "pulsarFunctionsCluster": of("DDS_CLUSTER"),
        "numFunctionPackageReplicas": int(of("DDS_REPLICAS")),
        "downloadDirectory": str(PULSAR / "download"),
        "functionRuntimeFactoryConfigs": {
            "logDirectory": str(PULSAR / "logs"),
            # Gives the functions a token of their own in place of the worker's.
            "pythonInstanceLocation": str(INSTANCE),
        },
        "instanceLivenessCheckFreqMs": LIVENESS_CHECK_MS,
        "failureCheckFreqMs": 5000,
        "rescheduleTimeoutMs": 10000,
        # A worker that has come back gets its share of the instances again.
        "rebalanceCheckFreqSec": 30,
        # Of a worker by itself, whether it is up and its metrics are told without a token, in the
        # network for administration: the proxy has none.
        "authenticateMetricsEndpoint": inside_broker,
    }


def replaced(text: str, settings: Mapping[str, str], separator: str) -> str:
    """A flat configuration file with `settings` in place of its own values, else appended."""
    missing = dict(settings)
    lines = []
    below = False  # a name that is replaced
    for line in text.splitlines():
        if below and line.startswith(" "):
            continue
        name = re.split("[=:]", line, maxsplit=1)[0].strip()
        below = name in settings and not line.startswith(("#", " "))
        if not below:
            lines.append(line)
        elif name in missing:
            lines.append(f"{name}{separator}{missing.pop(name)}")
    lines.extend(f"{name}{separator}{value}" for name, value in missing.items())
    return "\n".join(lines) + "\n"


def write(name: str, settings: Mapping[str, object]) -> str:
    """Write a file of the distribution with other values; its path."""
    separator = ": " if name.endswith(".yml") else "="
    values = {
        key: value if isinstance(value, str) and separator == "=" else json.dumps(value)
        for key, value in settings.items()
    }
    path = CONF / name
    path.write_text(replaced((PULSAR / "conf" / name).read_text(), values, separator))
    return str(path)


def start(role: str) -> None:
    """Become the process of a role."""
    CONF.mkdir(parents=True, exist_ok=True)
    for name in ("log4j2.yaml", "functions_log4j2.xml"):
        shutil.copyfile(PULSAR / "conf" / name, CONF / name)
    environment = os.environ | {
        "PULSAR_LOG_CONF": str(CONF / "log4j2.yaml"),
        "PULSAR_LOG_DIR": str(PULSAR / "logs"),
        # Everything to standard output: the engine keeps it.
        "PULSAR_LOG_APPENDER": "Console",
        "PULSAR_GC_LOG": " ",
        # For instance.py.
        "DDS_PYTHON_INSTANCE": str(PYTHON_INSTANCE),
        "DDS_FUNCTIONS_TOKEN_FILE": str(CREDENTIALS / "functions.token"),
    }
    arguments: list[str] = []
    if role == "metadata":
        command = "zookeeper"
        environment["PULSAR_ZK_CONF"] = write("zookeeper.conf", zookeeper())
    elif role == "bookie":
        command = "bookie"
        environment["PULSAR_BOOKKEEPER_CONF"] = write("bookkeeper.conf", bookie())
    elif role == "broker":
        command = "broker"
        settings = broker()
        STATUS.touch()
        environment["PULSAR_BROKER_CONF"] = write("broker.conf", settings)
        if settings["functionsWorkerEnabled"] == "true":
            environment["PULSAR_WORKER_CONF"] = write(
                "functions_worker.yml", worker(inside_broker=True)
            )
            # The broker takes the name of this file from its command line only.
            arguments = ["--functions-worker-conf", environment["PULSAR_WORKER_CONF"]]
    elif role == "worker":
        command = "functions-worker"
        environment["PULSAR_WORKER_CONF"] = write(
            "functions_worker.yml", worker(inside_broker=False)
        )
    elif role == "initialize":
        command = "initialize-cluster-metadata"
        arguments = [
            *("--cluster", of("DDS_CLUSTER")),
            *("--metadata-store", metadata_store()),
            *("--configuration-metadata-store", metadata_store()),
            # This one has to be given; nobody listens there.
            *("--web-service-url", f"http://{of('DDS_BROKER')}:{ADMIN_PORT}"),
            *("--web-service-url-tls", f"https://{of('DDS_BROKER')}:{ADMIN_PORT}"),
            *("--broker-service-url-tls", f"pulsar+ssl://{of('DDS_BROKER_DATA')}:{BROKER_PORT}"),
        ]
    else:
        sys.exit(__doc__)
    pulsar = str(PULSAR / "bin" / "pulsar")
    os.execve(pulsar, [pulsar, command, *arguments], environment)  # noqa: S606


def healthy(role: str) -> bool:
    """Whether the role serves in this container."""
    host = os.environ.get("DDS_HOST", "localhost")
    worker_leader = "admin/v2/worker/cluster/leader"
    if role == "metadata":
        return bool(answer("http://localhost:9990/commands/ruok"))
    if role == "bookie":
        return bool(answer(f"http://localhost:{METRICS_PORT}/api/v1/bookie/is_ready"))
    if role == "worker":
        return bool(answer(f"https://{host}:{WORKER_PORT}/{worker_leader}"))
    admin = f"https://{host}:{ADMIN_PORT}"
    serves = answer(f"{admin}/admin/v2/brokers/health") == b"ok"
    if serves and os.environ.get("DDS_WORKER") == "true":
        return bool(answer(f"{admin}/{worker_leader}"))
    return serves


def answer(url: str) -> bytes:
    """The body of a good answer; empty when there is none."""
    request = urllib.request.Request(url)  # noqa: S310
    try:
        context = None
        if url.startswith("https:"):
            context = ssl.create_default_context(cafile=str(SECURITY.authority))
            request.add_header("Authorization", f"Bearer {SECURITY.token.read_text()}")
        with urllib.request.urlopen(request, timeout=8, context=context) as response:  # noqa: S310
            return bytes(response.read()) or b"-"
    except (OSError, urllib.error.URLError):
        return b""


if __name__ == "__main__":
    if sys.argv[1:2] == ["healthy"]:
        sys.exit(0 if healthy(sys.argv[2]) else 1)
    start(sys.argv[1] if len(sys.argv) == 2 else "")
