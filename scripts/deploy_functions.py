#!/usr/bin/env python3
"""Makes a Pulsar cluster match topology/*.yaml: tenants, namespaces, topics and functions.

commands:
  plan      show what differs between the YAML and the cluster; changes nothing
  apply     show it, ask, change it, wait until every instance runs; a function that
            does not run gets its config and code from before again
  status    show the functions, their instances and the backlog of their inputs
  grow      raise the number of partitions to --partitions: wait until publishers are
            gone and everything is read, grow the topics, write the new count and a higher
            epoch floor into the YAML, deploy; see docs/partitions.md
  destroy   remove what the YAML names, with its data
  bundle    write the functions' code as a zip; plan and apply build it by themselves

exit codes:
  0  done; plan: the cluster matches; status: every instance runs
  1  an error, or a change that cannot be applied; the message says what to do
  2  plan, grow --dry-run: there are changes; status: some instance does not run
  3  apply, grow, destroy: the question was answered with no

example calls:
  deploy_functions.py plan
  deploy_functions.py apply --auto-approve
  deploy_functions.py apply --only functions --timeout 180
  deploy_functions.py grow --partitions 8 --dry-run
  deploy_functions.py grow --partitions 8 --wait 120
  deploy_functions.py plan --prune --json | jq '.changes[].name'
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
if __package__ is None or __package__ == "":
    sys.path.insert(0, str(ROOT))

from control_plane.pulsar_admin import AdminError, PulsarAdmin  # noqa: E402 - path set above
from control_plane.topology import (  # noqa: E402 - path set above
    ApplyError,
    Bundle,
    Change,
    Event,
    Grower,
    GrowError,
    Growth,
    Topology,
    apply,
    broker_warnings,
    build_bundle,
    destruction,
    diff,
    grown_texts,
    growth,
    load_topology,
    read_actual,
    summary,
)
from control_plane.topology.render import (  # noqa: E402 - path set above
    Renderer,
    changes_as_json,
    event_as_json,
)
from marketdata.connection import Access  # noqa: E402 - path set above
from marketdata.errors import DistributionError  # noqa: E402 - path set above

DONE: Final = 0
ERROR: Final = 1
CHANGES: Final = 2
DECLINED: Final = 3
DEFAULT_ADMIN_URL: Final = "http://127.0.0.1:8080"


class Deployment:
    """One run of a command: its options and where its output goes."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.json: bool = options.json
        self.renderer = Renderer(colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ)
        self.events: list[dict[str, Any]] = []

    def topology(self, *, bundle: Bundle | None) -> Topology:
        """What the YAML declares, with its code, cut down by --only."""
        topology = load_topology(self.options.topology)
        if bundle is not None:
            topology = topology.with_bundle(bundle)
        return topology.only_functions() if self.options.only == "functions" else topology

    def say(self, text: str) -> None:
        """Print for people; with --json only the final document is printed."""
        if not self.json:
            print(text, flush=True)

    def on_event(self, event: Event) -> None:
        """Report progress."""
        self.events.append(event_as_json(event))
        self.say(self.renderer.event(event))

    def finish(self, code: int, **document: Any) -> int:
        """Print the JSON document when it is wanted."""
        if self.json:
            print(json.dumps({"exit_code": code, **document}, indent=2, default=str))
        return code

    def approved(self, question: str) -> bool:
        """Ask, unless --auto-approve was given; where nobody can answer, the answer is no."""
        if self.options.auto_approve:
            return True
        if self.json or not sys.stdin.isatty():
            print("Nobody can be asked here: pass --auto-approve to go on.", file=sys.stderr)
            return False
        return input(f"\n{question} Only 'yes' is accepted: ").strip() == "yes"

    async def warn(self, admin: PulsarAdmin) -> None:
        """Say what of the broker's own configuration endangers the guarantees."""
        for warning in await broker_warnings(admin):
            print(f"warning: {warning}", file=sys.stderr)

    async def plan(self, admin: PulsarAdmin) -> int:
        """Show the difference."""
        await self.warn(admin)
        topology = self.topology(bundle=make_bundle(self.options))
        changes = diff(topology, await read_actual(admin, topology), prune=self.options.prune)
        self.say(self.renderer.plan(changes))
        refused = any(each.action == "refuse" for each in changes)
        code = ERROR if refused else CHANGES if changes else DONE
        return self.finish(code, **_document(changes))

    async def apply(self, admin: PulsarAdmin) -> int:
        """Show the difference and make it vanish."""
        await self.warn(admin)
        topology = self.topology(bundle=make_bundle(self.options))
        changes = diff(topology, await read_actual(admin, topology), prune=self.options.prune)
        return await self._carry_out(admin, changes, "Apply these changes?", "Apply complete")

    async def destroy(self, admin: PulsarAdmin) -> int:
        """Remove what the topology names."""
        topology = self.topology(bundle=None)
        actual = await read_actual(admin, topology)
        changes = destruction(topology, actual, prune=self.options.prune)
        question = "Destroy all of this, with the data in the topics?"
        return await self._carry_out(admin, changes, question, "Destroy complete")

    async def grow(self, admin: PulsarAdmin) -> int:
        """Raise the number of partitions, keeping the order of every instrument."""
        options = self.options
        if options.partitions is None:
            raise GrowError("say how many partitions there shall be: --partitions N")
        topology = self.topology(bundle=make_bundle(options))
        wanted = growth(topology, await read_actual(admin, topology), options.partitions)
        if not wanted.topics and wanted.old == wanted.new:
            self.say(f"There are {wanted.new} partitions everywhere.")
            return await self.apply(admin)  # one that was interrupted goes on here
        self.say(f"Partitions grow from {wanted.old} to {wanted.new}:")
        for topic in wanted.topics:
            self.say(f"  {topic}")
        self.say("Sequences start anew in a higher epoch; functions are deployed again.")
        document = {"from": wanted.old, "to": wanted.new, "topics": list(wanted.topics)}
        if options.dry_run:
            return self.finish(CHANGES, **document)
        if not self.approved("Grow the partitions?"):
            self.say("Nothing was changed.")
            return self.finish(DECLINED, **document)
        grower = Grower(admin, wanted, patience_s=options.wait, say=self.say)
        floor = await self._grow(grower, topology, wanted)
        topology = self.topology(bundle=make_bundle(options))
        changes = diff(topology, await read_actual(admin, topology))
        self.say(self.renderer.plan(changes))
        await apply(admin, changes, timeout_s=options.timeout, on_event=self.on_event)
        await grower.announced(floor)
        self.say("\nGrow complete. Publishers may start again; keep the changed topology files.")
        return self.finish(DONE, **document, epoch_floor=floor, events=self.events)

    async def _grow(self, grower: Grower, topology: Topology, wanted: Growth) -> int:
        """Drain, grow the topics, write the topology; the new epoch floor."""
        options = self.options
        if not options.publishers_told:
            await grower.publishers_gone()
        await grower.drained(accepted=options.accept_backlog)
        floor = max(topology.epoch_floor, await grower.highest_epoch()) + 1
        await grower.grow_topics()
        texts = {path: path.read_text("utf-8") for path in sorted(options.topology.glob("*.yaml"))}
        reason = f"the number of partitions grew from {wanted.old} to {wanted.new}"
        for path, text in grown_texts(texts, wanted.new, floor, reason).items():
            new = path.with_suffix(".new")
            new.write_text(text, "utf-8")
            new.replace(path)
            self.say(f"  {path}: partitions {wanted.new}, epoch floor {floor}")
        return floor

    async def _carry_out(
        self, admin: PulsarAdmin, changes: list[Change], question: str, complete: str
    ) -> int:
        self.say(self.renderer.plan(changes))
        if not changes:
            return self.finish(DONE, **_document(changes), events=[])
        refused = [each for each in changes if each.action == "refuse"]
        if refused:
            raise ApplyError(refused[0], refused[0].reason)
        if not self.approved(question):
            self.say("Nothing was changed.")
            return self.finish(DECLINED, **_document(changes), events=[])
        try:
            await apply(admin, changes, timeout_s=self.options.timeout, on_event=self.on_event)
        except ApplyError as error:
            if not self.json:
                raise
            rolled_back = list(error.rolled_back)
            return self.finish(
                ERROR,
                **_document(changes),
                events=self.events,
                error=str(error),
                rolled_back=rolled_back,
            )
        added, changed, destroyed = summary(changes)
        self.say(f"\n{complete}: {added} added, {changed} changed, {destroyed} destroyed.")
        return self.finish(DONE, **_document(changes), events=self.events)

    async def status(self, admin: PulsarAdmin) -> int:
        """Show functions, instances and backlogs."""
        topology = self.topology(bundle=None)
        actual = await read_actual(admin, topology)
        functions = []
        for name, spec in sorted(topology.functions.items()):
            functions.append(await _function_status(admin, name, name in actual.functions))
            for each in spec.inputs:
                key = (each.topic, spec.subscription)
                backlog = await _backlog(admin, actual.topics, key, actual.subscriptions)
                functions[-1]["inputs"].append(
                    {
                        "topic": each.topic,
                        "subscription": spec.subscription,
                        "backlog_messages": backlog,
                    }
                )
        healthy = all(each["running"] and each["running"] >= each["expected"] for each in functions)
        for row in functions:
            self.say(f"{row['name']}: {row['running']} of {row['expected']} instances run")
            for instance in row["instances"]:
                state = "runs" if instance["running"] else "does not run"
                counts = f"{instance['received']} messages, {instance['restarts']} restarts"
                error = f", {instance['error']}" if instance["error"] else ""
                self.say(f"  instance {instance['instance']} {state}: {counts}{error}")
            for entry in row["inputs"]:
                waiting = entry["backlog_messages"]
                shown = "no such subscription" if waiting is None else f"backlog {waiting} messages"
                self.say(f"  {entry['topic']} @ {entry['subscription']}: {shown}")
        return self.finish(DONE if healthy else CHANGES, functions=functions)


async def _function_status(admin: PulsarAdmin, name: str, deployed: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name,
        "expected": 0,
        "running": 0,
        "instances": [],
        "inputs": [],
    }
    if not deployed:
        return row
    try:
        status = await admin.function_status(name, retry_for_s=5)
    except AdminError as error:
        row["instances"] = [_unknown_instance(error)]
        return row
    row |= {"expected": status.expected, "running": status.running}
    row["instances"] = [
        {
            "instance": each.instance,
            "running": each.running,
            "received": each.received,
            "restarts": each.restarts,
            "user_exceptions": each.user_exceptions,
            "system_exceptions": each.system_exceptions,
            "error": each.error,
        }
        for each in status.instances
    ]
    return row


def _unknown_instance(error: AdminError) -> dict[str, Any]:
    return {
        "instance": 0,
        "running": False,
        "received": 0,
        "restarts": 0,
        "user_exceptions": 0,
        "system_exceptions": 0,
        "error": error.reason or str(error),
    }


async def _backlog(
    admin: PulsarAdmin,
    topics: Any,
    key: tuple[str, str],
    subscriptions: frozenset[tuple[str, str]],
) -> int | None:
    if key not in subscriptions:
        return None
    topic, subscription = key
    partitions = topics[topic].partitions if topic in topics else await admin.partitions(topic)
    stats = await (admin.partitioned_stats(topic) if partitions else admin.topic_stats(topic))
    found = stats.subscriptions.get(subscription)
    return found.backlog_messages if found else None


def _document(changes: list[Change]) -> dict[str, Any]:
    added, changed, destroyed = summary(changes)
    return {
        "changes": changes_as_json(changes),
        "summary": {"add": added, "change": changed, "destroy": destroyed},
    }


def make_bundle(options: argparse.Namespace) -> Bundle:
    """The functions' code from the source folders."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        version = str(tomllib.load(file)["project"]["version"])
    sources: Path = options.sources
    packages = {name: sources / name for name in ("functions", "marketdata")}
    return build_bundle(packages, version)


def write_bundle(options: argparse.Namespace) -> int:
    """Write the bundle below --output and print where."""
    bundle = make_bundle(options)
    folder: Path = options.output
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / bundle.name
    path.write_bytes(bundle.content)
    if options.json:
        size_bytes = len(bundle.content)
        print(json.dumps({"path": str(path), "digest": bundle.digest, "size_bytes": size_bytes}))
    else:
        print(f"{path}  sha256 of its content {bundle.digest}")
    return DONE


def parser() -> argparse.ArgumentParser:
    """The command line; its --help is this module's text."""
    root = argparse.ArgumentParser(
        prog="deploy_functions.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("command", choices=["plan", "apply", "status", "grow", "destroy", "bundle"])
    root.add_argument(
        "--topology",
        type=Path,
        metavar="DIR",
        default=Path(os.environ.get("DDS_TOPOLOGY_DIR") or ROOT / "topology"),
        help="folder of the YAML files (DDS_TOPOLOGY_DIR; default: topology/ of this project)",
    )
    root.add_argument(
        "--admin-url",
        metavar="URL",
        default=os.environ.get("DDS_PULSAR_ADMIN_URL") or DEFAULT_ADMIN_URL,
        help=f"Pulsar's admin port (DDS_PULSAR_ADMIN_URL; default: {DEFAULT_ADMIN_URL})",
    )
    root.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    root.add_argument(
        "--prune",
        action="store_true",
        help="also remove what the cluster has beside the YAML in the namespaces and tenants "
        "that it names; topics go with their data",
    )
    root.add_argument(
        "--auto-approve", "--yes", action="store_true", help="do not ask before changing"
    )
    root.add_argument(
        "--timeout",
        type=float,
        default=90.0,
        metavar="SECONDS",
        help="how long the instances of one function may take to run (default: 90)",
    )
    root.add_argument(
        "--only", choices=["functions"], help="leave tenants, namespaces and topics alone"
    )
    root.add_argument("--partitions", type=int, metavar="N", help="grow: how many there shall be")
    root.add_argument("--dry-run", action="store_true", help="grow: only show what would be done")
    root.add_argument(
        "--wait",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="grow: how long publishers may take to go, and subscriptions to read everything "
        "(default: a look of 5)",
    )
    root.add_argument(
        "--publishers-told",
        action="store_true",
        help="grow: those connected publish nothing until they are restarted",
    )
    root.add_argument(
        "--accept-backlog",
        action="append",
        default=[],
        metavar="SUBSCRIPTION",
        help="grow: this one may be behind; its reader may see an instrument that moves out of "
        "order (repeatable)",
    )
    root.add_argument(
        "--sources",
        type=Path,
        default=ROOT,
        metavar="DIR",
        help="folder that holds functions/ and marketdata/ (default: this project)",
    )
    root.add_argument(
        "--output",
        type=Path,
        default=ROOT / "dist",
        metavar="DIR",
        help="bundle: folder to write to (default: dist/)",
    )
    return root


async def run(options: argparse.Namespace) -> int:
    """Run one command against the cluster."""
    deployment = Deployment(options)
    async with PulsarAdmin(options.admin_url, access=Access.from_environment()) as admin:
        command = {
            "plan": deployment.plan,
            "apply": deployment.apply,
            "status": deployment.status,
            "grow": deployment.grow,
            "destroy": deployment.destroy,
        }[options.command]
        return await command(admin)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; errors go to stderr as text that says what to do."""
    options = parser().parse_args(arguments)
    try:
        if options.command == "bundle":
            return write_bundle(options)
        return asyncio.run(run(options))
    except DistributionError as error:
        print(f"Error: {error}", file=sys.stderr)
        if options.json:
            print(json.dumps({"exit_code": ERROR, "error": str(error)}, indent=2))
        return ERROR
    except KeyboardInterrupt:
        print("Interrupted. Run the same command again to go on.", file=sys.stderr)
        return ERROR


if __name__ == "__main__":
    sys.exit(main())
