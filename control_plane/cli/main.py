"""The command line: commands made of the table of resources, with what all of them take."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import get_completion_class

from control_plane.cli import configuration
from control_plane.cli.configuration import Configuration, ConfigurationError
from control_plane.cli.failures import FAILED, Failure
from control_plane.cli.fields import Document
from control_plane.cli.following import follow, line_of
from control_plane.cli.output import print_document, print_json, print_rows, print_text
from control_plane.cli.proxy import Proxy
from control_plane.cli.requests import Api, Request
from control_plane.cli.resources import EXPLAIN, FOLLOW, GROUPS
from control_plane.cli.resources.command import Command, Group

PROGRAM = "ddsctl"
DEFAULT_LIMIT = 100
OUTPUTS = ("table", "json")
INTERRUPTED = 130
SHELLS = ("bash", "zsh", "fish")
_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

EPILOG = """\b
Where the control plane is, and the token, is looked for in this order:
  options        --url, --token-file, --trust-certs
  environment    DDS_CONTROL_PLANE_URL; DDS_TOKEN or DDS_TOKEN_FILE; DDS_TLS_TRUST_CERTS
  a file         ~/.config/ddsctl.toml: url, token_file, trust_certs, output
A token file must have mode 0600.

\b
Exit codes:
  0  done                            5  there is no such thing
  1  failed                          6  no valid token, or not allowed
  2  wrong usage or configuration    7  not reached, not ready, too busy: try later
  3  refused as it is written        130  interrupted
  4  contradicts what is stored, or that has changed

\b
Examples:
  ddsctl consumers create desk-7 --entitlements '{"venues": ["XNAS"]}'
  ddsctl subscriptions create desk-7 apples --filter "instrument = 'AAPL' AND price > 187.25"
  ddsctl subscriptions list --consumer desk-7 --output json
  ddsctl events follow --consumer desk-7
  eval "$(ddsctl completion bash)"
"""


@dataclass(slots=True)
class Session:
    """What the options before a command say."""

    configuration: Configuration
    output: str


def _output_option(default: str | None, outputs: tuple[str, ...] = OUTPUTS) -> click.Option:
    return click.Option(
        ["-o", "--output"],
        type=click.Choice(outputs),
        default=default,
        help="How to print.  [table]",
    )


@click.group(name=PROGRAM, context_settings=_SETTINGS, epilog=EPILOG, no_args_is_help=True)
@click.option("--url", envvar="DDS_CONTROL_PLANE_URL", help="Of the control plane.")
@click.option(
    "--token-file",
    envvar="DDS_TOKEN_FILE",
    type=click.Path(path_type=Path),
    help="The token to show; mode 0600.",
)
@click.option(
    "--trust-certs",
    envvar="DDS_TLS_TRUST_CERTS",
    type=click.Path(path_type=Path),
    help="Certificates (PEM) to believe, in place of the system's.",
)
@click.option(
    "--config",
    envvar="DDSCTL_CONFIG",
    type=click.Path(path_type=Path),
    help="The file of settings.  [~/.config/ddsctl.toml]",
)
@click.pass_context
def cli(
    ctx: click.Context,
    url: str | None,
    token_file: Path | None,
    trust_certs: Path | None,
    config: Path | None,
    output: str | None,
) -> None:
    """Consumers, subscriptions, plans and all else that the control plane's API offers."""
    settings = configuration.load(config)
    stored_token = Path(settings["token_file"]) if "token_file" in settings else None
    stored_certs = Path(settings["trust_certs"]) if "trust_certs" in settings else None
    named = ctx.get_parameter_source("token_file") is ParameterSource.COMMANDLINE
    in_environment = configuration.token_in_environment() and not named
    output = output or settings.get("output", OUTPUTS[0])
    if output not in OUTPUTS:
        raise ConfigurationError(f"output is {output!r}; it must be one of {', '.join(OUTPUTS)}")
    made = Configuration(
        url=url or settings.get("url", configuration.DEFAULT_URL),
        token_file=None if in_environment else token_file or stored_token,
        trust_certs=trust_certs or stored_certs,
    )
    ctx.obj = Session(made, output)


def _run(command: Command, session: Session, given: Mapping[str, Any]) -> None:
    """Carry a command out and print its answer."""
    output = given.get("output") or session.output
    if command.confirm and not (given["yes"] or given.get("dry_run")):
        click.confirm(command.confirm, abort=True, err=True)
    request = Request.of(command, given)
    api = Api(session.configuration, as_json=output == "json")
    with session.configuration.client() as client:
        if command.paged:
            items = list(api.items(client, request, given["limit"]))
            _print_list(command, items, output, api.etag)
            if output == "table" and request.query["cursor"] is not None:
                told = f"There are more than {given['limit']}: --limit 0 lists all."
                click.echo(told, err=True)
            return
        if command.verifies:
            _verified(api.verification(client, request), output)
            return
        answer = api.send(client, request)
    if command.raw:
        sys.stdout.buffer.write(answer.content)
    elif not answer.content:
        print_text(command.done)
    elif command.columns:
        document = api.document(answer)
        items = document["items"] if isinstance(document, dict) else document
        _print_items(command, items, output)
    elif output == "token":
        click.echo(api.document(answer)["token"])
    elif output == "json":
        print_json(api.document(answer))
    else:
        print_document({**api.document(answer), **_etag(answer.headers.get("ETag"))})


def _verified(found: dict[str, Any], output: str) -> None:
    (print_json if output == "json" else print_document)(found)
    if not found["holds"]:
        raise Failure("it does not hold", FAILED)


def _etag(value: str | None) -> dict[str, str]:
    return {"ETag": value} if value else {}


def _print_list(command: Command, items: list[Any], output: str, tag: str | None) -> None:
    if output == "etag":
        click.echo(tag)
        return
    _print_items(command, items, output)
    if output == "table" and tag:
        print_document(_etag(tag))


def _print_items(command: Command, items: list[Any], output: str) -> None:
    if output == "json":
        print_json(items)
    else:
        print_rows(items, command.columns)


def _callback(command: Command) -> Callable[..., None]:
    @click.pass_obj
    def run(session: Session, /, **given: Any) -> None:
        _run(command, session, given)

    return run


def _command(command: Command) -> click.Command:
    parameters = [field.parameter for field in command.fields]
    if command.paged:
        parameters.append(
            click.Option(
                ["--limit"],
                type=click.IntRange(min=0),
                default=DEFAULT_LIMIT,
                show_default=True,
                help="Most items to list; 0 lists all.",
            )
        )
    if command.from_file:
        told = "The request as YAML or JSON; -: standard input."
        parameters.append(click.Option(["-f", "--file"], type=Document(), help=told))
    if command.confirm:
        parameters.append(click.Option(["-y", "--yes"], is_flag=True, help="Do not ask."))
    if not command.raw:
        more = (command.alone,) if command.alone else ()
        parameters.append(_output_option(None, (*OUTPUTS, *more)))
    return click.Command(
        command.name, params=parameters, callback=_callback(command), help=command.help
    )


def _group(group: Group) -> click.Group:
    commands = [_command(command) for command in group.commands]
    return click.Group(group.name, commands=commands, help=group.help, no_args_is_help=True)


@click.pass_obj
def _follow(session: Session, /, *, reconnect: bool, output: str | None, **given: Any) -> None:
    as_json = (output or session.output) == "json"
    api = Api(session.configuration, as_json=as_json)
    with session.configuration.client() as client:
        follow(
            api,
            client,
            Request.of(FOLLOW, given),
            lambda data: click.echo(data if as_json else line_of(data)),
            reconnect=reconnect,
            note=functools.partial(click.echo, err=True),
        )


def _events() -> click.Group:
    parameters = [field.parameter for field in FOLLOW.fields]
    parameters += [
        click.Option(
            ["--reconnect/--no-reconnect"],
            default=True,
            help="Whether to open a connection again that ends.  [--reconnect]",
        ),
        _output_option(None),
    ]
    command = click.Command(FOLLOW.name, params=parameters, callback=_follow, help=FOLLOW.help)
    return click.Group(
        "events", commands=[command], help="What changes, as it changes.", no_args_is_help=True
    )


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what makes a shell complete commands and options: eval "$(ddsctl completion bash)"."""
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"{shell} is unknown")
    click.echo(found(cli, {}, PROGRAM, "_DDSCTL_COMPLETE").source())


@click.command()
@click.option("--port", default=8001, show_default=True, help="Of this machine; 0: any.")
@click.pass_obj
def proxy(session: Session, port: int) -> None:
    """Show the control plane to a browser of this machine, with your token.

    The pages on which each request can be tried are at /schema. Whoever can connect from this
    machine can do what you may, until you end it.
    """
    with session.configuration.client() as client:
        try:
            server = Proxy(client, port)
        except OSError as error:
            raise click.ClickException(f"port {port}: {error.strerror}; choose --port") from None
        with server:
            click.echo(f"{server.url}/schema", err=True)
            server.serve_forever()


cli.params.append(_output_option(None))
for _each in (*map(_group, GROUPS), _events(), _command(EXPLAIN), completion, proxy):
    cli.add_command(_each)


def main() -> None:
    """The installed command."""
    try:
        code = cli.main(prog_name=PROGRAM, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:  # Ctrl-C, or no to a question
        sys.exit(INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)
