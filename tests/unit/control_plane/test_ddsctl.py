"""`ddsctl` against the real application: each route has its command, and they do what they say."""

from __future__ import annotations

import io
import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import httpx
import psycopg
import pytest
import structlog
from access import Tokens, secured
from click.testing import CliRunner, Result
from litestar.testing import TestClient

from control_plane.app import create_app
from control_plane.cli import failures, main
from control_plane.cli.configuration import Configuration
from control_plane.cli.following import follow, messages
from control_plane.cli.main import cli
from control_plane.cli.requests import Api, Request
from control_plane.cli.resources import COMMANDS, FOLLOW
from control_plane.domains.events.schemas import EventType
from control_plane.logs import configure_logging
from control_plane.security.roles import Role
from control_plane.settings import Settings

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Neither the environment nor the home of who runs the tests says anything.

    What the application logs is not among what commands print.
    """
    for name in ("DDS_CONTROL_PLANE_URL", "DDS_TOKEN", "DDS_TOKEN_FILE", "DDS_TLS_TRUST_CERTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("DDSCTL_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configure_logging(Settings(), io.StringIO())
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def runner_of(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    app = create_app(settings)

    async def broker_is_there() -> None:
        return

    app.state.control_plane.subscriptions._require_broker = broker_is_there
    with TestClient(app, raise_server_exceptions=False) as http:

        @contextmanager
        def shared(configuration: Configuration) -> Iterator[httpx.Client]:
            http.auth = configuration.authenticate
            yield http

        monkeypatch.setattr(Configuration, "client", shared)
        yield invoke


def invoke(*arguments: str, **options: Any) -> Result:
    result = CliRunner().invoke(cli, arguments, **options)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a command against an application without a broker."""
    yield from runner_of(settings, monkeypatch)


def answer_of(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def described() -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Method, path and description of each operation of the API."""
    schema = create_app(Settings()).openapi_schema.to_schema()
    return {
        operation["operationId"]: (method.upper(), path, operation)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    } | {"": ("", "", schema["components"]["schemas"])}


def test_every_route_has_a_command_that_offers_all_it_takes() -> None:
    operations = described()
    _, _, schemas = operations.pop("")
    commands = (*COMMANDS, FOLLOW)
    assert {command.operation for command in commands} == set(operations)
    for name, (method, path, operation) in operations.items():
        own = [command for command in commands if command.operation == name]
        taken = {"path": set[str](), "query": set[str](), "header": set[str]()}
        for parameter in operation.get("parameters", ()):
            taken[parameter["in"]].add(parameter["name"])
        if own[0].paged:
            assert taken["query"] >= {"cursor", "limit"}, name
            taken["query"] -= {"cursor", "limit"}
        for command in own:
            assert (command.method, command.path) == (method, path), name
            for place, expected in taken.items():
                offered = {field.name for field in command.fields if field.place == place}
                assert offered == expected, (name, place)
        assert members_of(operation, schemas) == {
            *(field.name for command in own for field in command.fields if field.place == "body"),
            *(member for command in own for member, _ in command.fixed),
        }, name
        for field in (field for command in own for field in command.fields):
            if isinstance(field.type, tuple):
                assert set(field.type) == choices(operation, schemas, field.name), (name, field)
            if field.name == "sort":
                (sort,) = (p["schema"] for p in operation["parameters"] if p["name"] == "sort")
                told = re.findall(r"[a-z_]+", field.help.removeprefix("By ").partition(";")[0])
                assert set(told) == set(re.findall(r"[a-z_]+", sort["pattern"])), name


def members_of(operation: dict[str, Any], schemas: dict[str, Any]) -> set[str]:
    if "requestBody" not in operation:
        return set()
    content, *others = operation["requestBody"]["content"].values()
    if others:  # rows in one of several forms, from a file
        return set()
    return set(schemas[content["schema"]["$ref"].rsplit("/", 1)[1]]["properties"])


def choices(operation: dict[str, Any], schemas: dict[str, Any], name: str) -> set[str]:
    """What a parameter, or a member of the body, may be."""
    found = [p["schema"] for p in operation.get("parameters", ()) if p["name"] == name]
    if not found:
        (content,) = operation["requestBody"]["content"].values()
        found = [schemas[content["schema"]["$ref"].rsplit("/", 1)[1]]["properties"][name]]
    text = json.dumps(found)
    for reference in re.findall(r"#/components/schemas/([^\"]+)", text):
        text += json.dumps(schemas[reference])
    return {
        value
        for values in re.findall(r'"enum": (\[[^\]]*\])', text)
        for value in json.loads(values)
        if value is not None
    }


def commands_of(group: click.Group, *above: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield above, group
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands_of(command, *above, name)
        else:
            yield (*above, name), command


def test_every_level_and_every_option_is_explained() -> None:
    found = list(commands_of(cli))
    assert len(found) > 50
    for path, command in found:
        shown = invoke(*path, "--help")
        assert shown.exit_code == 0
        assert command.help
        assert command.help.split(".")[0].split()[0] in shown.output
        for parameter in command.params:
            assert isinstance(parameter, click.Argument) or getattr(parameter, "help", ""), path


def test_exit_codes_are_the_documented_ones() -> None:
    told = failures.__doc__ or ""
    in_help = main.EPILOG.replace("\n", "  ")
    documented = Path(main.__file__).parents[2] / "docs" / "ddsctl.md"
    for code in (0, 1, 2, 3, 4, 5, 6, 7, 130):
        assert f"| {code} |" in told
        assert f"| {code} |" in documented.read_text("utf-8")
        assert f"  {code}  " in in_help


def test_a_consumer_and_its_subscription_from_beginning_to_end(run: Run, tmp_path: Path) -> None:
    made = answer_of(
        run(
            "consumers", "create", "desk-7", "--owner", "us", "--label", "floor=3", "-o", "json",
            "--entitlements", '{"venues": ["XNAS"]}',
        )
    )  # fmt: skip
    assert (made["name"], made["labels"]) == ("desk-7", {"floor": "3"})
    assert made["entitlements"]["venues"] == ["XNAS"]
    table = run("consumers", "list")
    assert re.search(rf"desk-7 +{made['id']} +us +no ", table.output.replace("  - ", " "))
    shown = run("consumers", "show", "desk-7").output
    assert re.search(r"entitlements\.venues +XNAS", shown)
    assert re.search(r'ETag +"1"', shown)
    changed = run("consumers", "update", "desk-7", "--region", "fra", "--if-match", '"1"')
    assert changed.exit_code == 0
    stale = run("consumers", "update", "desk-7", "--region", "lon", "--if-match", '"1"')
    assert stale.exit_code == failures.CONFLICT
    text = tmp_path / "filter.sql"
    text.write_text("instrument = 'AAPL'\n")
    created = answer_of(
        run(
            "subscriptions", "create", "desk-7", "apples", "--filter", f"@{text}",
            "--format", "json", "--transformation", '{"rename": {"price": "px"}}',
            "--output", "json",
        )
    )  # fmt: skip
    assert created["filter"] == "instrument = 'AAPL'"
    assert created["transformation"]["rename"] == {"price": "px"}
    key = created["id"]
    listed = answer_of(run("-o", "json", "subscriptions", "list", "--state", "pending"))
    assert [each["id"] for each in listed] == [key]
    renamed = run("subscriptions", "update", key, "--name", "pears")
    assert re.search(r"\nname +pears", renamed.output)
    assert run("subscriptions", "delete", key, input="n\n").exit_code != 0
    late = run(
        "subscriptions", "create", "desk-7", "late", "--start", '{"time": "2999-01-01T00:00Z"}'
    )
    assert late.exit_code == failures.REFUSED
    assert "lies in the future" in late.output
    assert "no JSON" in run("subscriptions", "create", "desk-7", "late", "--start", "noon").output
    long = run("subscriptions", "delete", key, "--yes", "--drain", "3600")
    assert "300 seconds at most" in long.output
    # It was never active: there is nothing to drain.
    ended = run("subscriptions", "delete", key, "--yes", "--drain", "60")
    assert ended.output.startswith("closed")
    assert answer_of(run("-o", "json", "subscriptions", "show", key))["state"] == "closed"
    for command, suspended in (("suspend", True), ("resume", False)):
        run("consumers", command, "desk-7", *(["--yes"] if suspended else []))
        now = answer_of(run("consumers", "show", "desk-7", "-o", "json"))
        assert now["suspended"] is suspended
    assert run("consumers", "delete", "desk-7", "--yes").output.strip() == "deleted"
    gone = run("consumers", "show", "desk-7")
    assert gone.exit_code == failures.NOT_FOUND
    assert "There is no consumer 'desk-7'" in gone.stderr


def test_lists_are_filtered_by_labels_as_they_are_given(run: Run) -> None:
    for name, labels in (("a", ["team=x", "floor=3"]), ("b", ["team=x"]), ("c", ["team=y:z"])):
        run("consumers", "create", name, *(f"--label={label}" for label in labels))
    for wanted, found in ((["team=x", "floor"], "a"), (["team"], "abc"), (["team=y:z"], "c")):
        options = [f"--label={label}" for label in wanted]
        listed = answer_of(run("consumers", "list", *options, "-o", "json"))
        assert [each["name"] for each in listed] == list(found)


def test_the_etag_of_the_order_of_rules_is_told_and_taken(run: Run) -> None:
    for name in ("one", "two"):
        run("rules", "create", name, "deny", "--when", f"instrument = '{name}'")
    listed = run("rules", "list").output
    tag = run("rules", "list", "--limit", "1", "-o", "etag").output.strip()
    assert re.search(rf"ETag +{tag}", listed)
    assert [each["name"] for each in answer_of(run("rules", "list", "-o", "json"))] == [
        "one",
        "two",
    ]
    reorder = ("rules", "reorder", "two", "one", "--if-match", tag)
    assert run(*reorder).exit_code == 0
    assert run(*reorder).exit_code == failures.CONFLICT
    assert "ETag" not in run("consumers", "list").output


def test_a_filter_that_is_refused_is_shown_with_its_place(run: Run) -> None:
    run("consumers", "create", "desk")
    condition = "instrument = 'AAPL'\n  AND pricee > 1"
    refused = run("subscriptions", "create", "desk", "apples", "--filter", condition)
    assert refused.exit_code == failures.REFUSED
    assert refused.stdout == ""
    lines = refused.stderr.splitlines()
    shown = lines.index("      AND pricee > 1")
    assert lines[shown + 1] == " " * 10 + "^"
    assert any(line.startswith("  filter: ") and "pricee" in line for line in lines)
    assert any(line.startswith("  hint: ") for line in lines)
    computed = run(
        "subscriptions", "create", "desk", "twice",
        "--transformation", '{"compute": {"twice": "price * prise"}}',
    )  # fmt: skip
    lines = computed.stderr.splitlines()
    shown = lines.index("    price * prise")
    assert lines[shown + 1] == " " * 12 + "^"
    as_json = run("subscriptions", "create", "desk", "a", "--filter", "x = 1", "-o", "json")
    assert as_json.exit_code == failures.REFUSED
    assert json.loads(as_json.stderr)["errors"][0]["position"] == 0


def test_sets_plans_tokens_schemas_and_the_rest(run: Run) -> None:
    run("sets", "create", "big", "AAPL", "MSFT", "--description", "large")
    run("sets", "update", "big", "--add", "NVDA", "--remove", "AAPL")
    assert re.search(r"instruments +MSFT, NVDA", run("sets", "show", "big").output)
    assert answer_of(run("sets", "version", "big", "1", "-o", "json"))["added"] == ["AAPL", "MSFT"]
    versions = run("sets", "versions", "big").output.splitlines()
    assert [line.split()[0] for line in versions] == ["version", "2", "1"]
    assert run("sets", "list", "--limit", "1").stderr == ""
    run("sets", "create", "small", "IBM")
    assert "more than 1" in run("sets", "list", "--limit", "1").stderr
    assert len(answer_of(run("sets", "list", "--limit", "0", "-o", "json"))) == 2
    assert run("sets", "delete", "small", "-y").exit_code == 0
    assert answer_of(run("plans", "show", "1", "-o", "json"))["number"] == 1
    assert "view_count" in run("plans", "list").output
    assert run("plans", "current").exit_code == failures.NOT_FOUND
    assert run("functions", "list").exit_code == 0
    assert run("functions", "show", "nobody").exit_code == failures.NOT_FOUND
    assert run("ordering", "gaps", "--state", "open").output.strip() == "nothing"
    assert run("ordering", "gap", "1:2:3").exit_code == failures.NOT_FOUND
    assert "trade.avsc" in run("schemas", "list").output
    assert json.loads(run("schemas", "show", "1", "trade.avsc").output)["type"] == "record"
    assert run("tokens", "create", "--role", "platform", "--subject", "ann").exit_code == 4
    assert run("tokens", "list").output.strip() == "nothing"
    assert run("explain", "s0", "AAPL", "1").exit_code == failures.NOT_FOUND
    assert answer_of(run("system", "health", "-o", "json"))["version"]
    assert "dds_event_streams" in run("system", "metrics").output
    waits = run("system", "ready")
    assert waits.exit_code == failures.LATER
    assert "broker" in waits.stderr
    assert run("dead-letters", "list").exit_code == failures.LATER
    assert run("consumers", "list", "--state", "x").exit_code == 2
    assert run("consumers", "show", "..").exit_code == 2


def test_a_proposal_comes_from_a_file_and_options_stand_above_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Request] = []

    def send(_: Api, __: httpx.Client, request: Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json={})

    monkeypatch.setattr(Api, "send", send)
    proposal = tmp_path / "change.yaml"
    proposal.write_text("delete: [s1]\nminutes: 5\n")
    answer_of(run("plans", "preview", "-f", str(proposal), "--minutes", "9", "-o", "json"))
    assert sent[0].body == {"delete": ["s1"], "minutes": 9}
    for text in ("[1]", "a: [", "text"):
        proposal.write_text(text)
        assert run("plans", "preview", "-f", str(proposal)).exit_code == 2
    assert run("plans", "preview", "-f", str(tmp_path / "none")).exit_code == 2


def test_events_are_followed_from_a_place_on(run: Run) -> None:
    made = answer_of(run("consumers", "create", "desk", "-o", "json"))
    run("consumers", "update", "desk", "--owner", "us")
    follow_once = ("events", "follow", "--no-reconnect", "--after", "0")
    lines = run(*follow_once, "--type", "consumer.created", "--type", "consumer.changed").output
    assert [line.split()[1:3] for line in lines.splitlines()] == [
        ["consumer.created", made["id"]],
        ["consumer.changed", made["id"]],
    ]
    documents = run(*follow_once, "--consumer", "desk", "-o", "json").output.splitlines()
    assert [json.loads(line)["type"] for line in documents] == [
        EventType.CONSUMER_CREATED,
        EventType.CONSUMER_CHANGED,
    ]
    lost = run("events", "follow", "--no-reconnect", "--after", "99999").output
    assert lost.split()[0] == "events.lost"
    unknown = run(*follow_once, "--consumer", "nobody")
    assert unknown.exit_code == failures.NOT_FOUND


def test_the_token_is_shown_and_its_file_must_be_its_owners(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    safe = secured(settings, tmp_path)
    token = Tokens(safe).make(Role.PLATFORM)
    file = tmp_path / "token"
    file.write_text(token + "\n")
    for run in runner_of(safe, monkeypatch):
        assert run("consumers", "list").exit_code == failures.NOT_ALLOWED
        file.chmod(0o640)
        refused = run("--token-file", str(file), "consumers", "list")
        assert refused.exit_code == 2
        assert "chmod 600" in refused.stderr
        file.chmod(0o600)
        assert run("--token-file", str(file), "consumers", "list").exit_code == 0
        assert run("consumers", "list", env={"DDS_TOKEN_FILE": str(file)}).exit_code == 0
        assert run("consumers", "list", env={"DDS_TOKEN": token}).exit_code == 0
        # What is named is used, whatever stands around.
        with_both = {"DDS_TOKEN": "wrong", "DDS_TOKEN_FILE": str(file)}
        assert run("--token-file", str(file), "consumers", "list", env=with_both).exit_code == 0
        config = tmp_path / "config" / "ddsctl.toml"
        config.parent.mkdir()
        config.write_text('token_file = "../token"\noutput = "json"\n')
        assert json.loads(run("consumers", "list").output) == []
        made = run("tokens", "create", "--role", "read-only", "--subject", "bob", "-o", "token")
        assert made.output.count(".") == 2
        assert made.output.count("\n") == 1
        reader = {"DDS_TOKEN": made.output.strip()}
        refused = run("consumers", "create", "desk", env=reader)
        assert refused.exit_code == failures.NOT_ALLOWED
        assert run("--token-file", str(tmp_path / "none"), "plans", "list").exit_code == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("token = 'x'", "'token' is unknown"),
        ("url = 7", "must be a text"),
        ("url", "ddsctl.toml"),
        ("output = 'xml'", "must be one of"),
    ],
)
def test_a_wrong_configuration_is_refused(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "ddsctl.toml"
    file.write_text(text)
    refused = invoke("--config", str(file), "consumers", "list")
    assert refused.exit_code == 2
    assert told in refused.stderr
    assert invoke("--config", str(tmp_path / "none"), "consumers", "list").exit_code == 2


def test_who_is_not_there_is_told() -> None:
    refused = invoke("--url", "http://127.0.0.1:1", "consumers", "list")
    assert refused.exit_code == failures.LATER
    assert "http://127.0.0.1:1 cannot be reached" in refused.stderr


def test_the_installed_command_ends_with_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, code in (
        (["--url", "http://127.0.0.1:1", "plans", "list"], failures.LATER),
        (["completion", "zsh"], 0),
        (["plans", "show"], 2),
        (["consumers", "delete", "desk"], main.INTERRUPTED),
    ):
        monkeypatch.setattr("sys.argv", ["ddsctl", *arguments])
        monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
        with pytest.raises(SystemExit) as ended:
            main.main()
        assert ended.value.code == code
    assert "_DDSCTL_COMPLETE" in capsys.readouterr().out


def test_shells_complete_commands_options_and_choices() -> None:
    def complete(words: str) -> list[str]:
        last = str(len(words.split()) - (not words.endswith(" ")))
        environment = {
            "_DDSCTL_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": last,
        }
        done = CliRunner().invoke(cli, env=environment, prog_name="ddsctl")
        return [line.split(",", 1)[1] for line in done.output.splitlines()]

    assert complete("ddsctl sub") == ["subscriptions"]
    assert complete("ddsctl subscriptions list --sta") == ["--state"]
    assert complete("ddsctl subscriptions list --state ") == [
        "pending",
        "active",
        "paused",
        "draining",
        "closed",
    ]


def test_what_others_wrote_cannot_drive_the_terminal() -> None:
    problem = {
        "detail": "bad \x1b[2J",
        "status": 422,
        "errors": [{"pointer": "/filter", "detail": "\x1b]0;x\x07", "position": 2}],
    }
    shown = failures.told(problem, {"filter": "a\x1bb"}).plain
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert shown.index("^") > shown.index("a\\x1bb")


@pytest.mark.parametrize("position", [0, 10, 250, 499, 500])
def test_the_mark_stands_below_its_place_in_a_long_line(position: int) -> None:
    source = "".join(chr(0x4E00 + n) if n % 7 == 0 else "x" for n in range(500))
    source = source[:position] + "§" + source[position + 1 :]
    problem = {
        "status": 422,
        "errors": [{"pointer": "/filter", "detail": "", "position": position}],
    }
    line, mark = (
        each
        for each in failures.told(problem, {"filter": source}).plain.splitlines()
        if "§" in each or "^" in each
    )
    assert len(line) < 100
    assert failures.cell_len(line[: line.index("§")]) == mark.index("^")


STREAM = (
    ": connected\r\nid: 4\r\nretry: 10\r\n\r\n",
    'id: 5\r\nevent: a\r\ndata: {"n":5}\r\n\r\n: heartbeat\r\nid: 7\r\n\r\nid: 8\r\ndata: {"n"',
)


def test_a_stream_is_read_by_its_blocks() -> None:
    found = list(messages("".join(STREAM).splitlines()))
    assert [(each.id, each.data, each.retry) for each in found] == [
        ("4", "", "10"),
        ("5", '{"n":5}', ""),
        ("7", "", ""),
    ]


def test_a_stream_that_breaks_goes_on_where_it_was() -> None:
    """What was cut off comes again; refusals that pass are waited for, others end it."""
    asked: list[str | None] = []
    answers = iter(
        (
            httpx.Response(200, text="".join(STREAM)),
            httpx.ConnectError("gone"),
            httpx.Response(503, json={"title": "Unavailable", "status": 503}),
            httpx.Response(200, text='id: 8\r\ndata: {"n":8}\r\n\r\n'),
            httpx.Response(401, json={"title": "Not authenticated", "status": 401}),
        )
    )

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("Last-Event-ID"))
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    shown: list[str] = []
    pauses: list[float] = []
    notes: list[str] = []
    client = httpx.Client(transport=httpx.MockTransport(handle), base_url="http://there")
    with pytest.raises(failures.Refusal) as ended:
        follow(
            Api(Configuration("http://there"), as_json=False),
            client,
            Request("GET", "/v1/events"),
            shown.append,
            reconnect=True,
            note=notes.append,
            sleep=pauses.append,
        )
    assert ended.value.exit_code == failures.NOT_ALLOWED
    assert shown == ['{"n":5}', '{"n":8}']
    assert asked == [None, "7", "7", "7", "8"]
    assert pauses == [0.01, 0.01, 0.02, 0.01]
    assert len(notes) == 2


def test_an_answer_of_something_else_is_told() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text="<html>"))
    client = httpx.Client(transport=transport, base_url="http://there")
    api = Api(Configuration("http://there"), as_json=False)
    with pytest.raises(failures.Failure, match="as a control plane does"):
        api.document(api.send(client, Request("GET", "/v1/plans")))


def test_a_rollback_asks_before_and_a_dry_run_does_not(run: Run) -> None:
    run("consumers", "create", "desk")
    run("sets", "create", "some", "A", "B")
    made = answer_of(
        run(
            "subscriptions", "create", "desk", "one",
            "--filter", "instrument IN SET 'some'", "-o", "json",
        )
    )  # fmt: skip
    run("sets", "update", "some", "--add", "C")
    plan = str(made["plan"])
    told = answer_of(run("rollouts", "rollback", plan, "--dry-run", "-o", "json"))
    assert (told["dry_run"], [each["name"] for each in told["put_back"]]) == (True, ["some"])
    refused = run("rollouts", "rollback", plan, input="n\n")
    assert (refused.exit_code, "Roll back?" in refused.output) == (1, True)
    back = run("rollouts", "rollback", plan, "--part", "instrument_sets", "--yes", "-o", "json")
    assert answer_of(back)["plan"] == told["plan"]
    held = answer_of(run("sets", "show", "some", "-o", "json"))
    assert held["instruments"] == ["A", "B"]


def test_the_audit_log_is_verified_to_its_end_and_what_does_not_hold_is_a_failure(
    run: Run, settings: Settings
) -> None:
    for name in ("a", "b", "c"):
        answer_of(run("consumers", "create", name, "-o", "json"))
    url = settings.database_url
    sealed = "SELECT count(*) FROM audit_entries WHERE sequence IS NOT NULL"
    with psycopg.connect(url, autocommit=True) as connection:
        until = time.monotonic() + 120
        while connection.execute(sealed).fetchone() < (3,) and time.monotonic() < until:
            time.sleep(0.1)
        whole = answer_of(run("audit", "verify", "--limit", "1", "-o", "json"))
        assert whole["holds"]
        assert whole["checked"] >= 3
        connection.execute("ALTER TABLE consumers DISABLE TRIGGER audit_change")
        broken = run("audit", "verify", "-o", "json")
    assert broken.exit_code == 1
    assert json.loads(broken.stdout)["silenced"] == ["consumers"]
