"""`python -m control_plane.security`: signing keys and first tokens, for the platform team.

A token is printed to standard output, everything else to standard error, so that
`DDS_TOKEN=$(python -m control_plane.security issue --role platform)` holds the token alone.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from control_plane.security.keys import KeyDirectoryError, load_keys, make_key, signing_key
from control_plane.security.roles import FUNCTIONS_SUBJECT, Role
from control_plane.security.tokens import KeyRing
from control_plane.settings import SettingsError, load_settings

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_EPILOG = """\
examples:
  %(prog)s new-key                                    the first key of an installation
  %(prog)s new-key --active-after 15m                 rotate: verifiers learn it before it signs
  %(prog)s issue --role platform --ttl 1h             a token for yourself
  %(prog)s issue --role functions --subject functions --ttl 24h
  %(prog)s issue --role consumer --subject c0123456789abcdef

The directory of keys, issuer and audience are DDS_SIGNING_KEYS_DIR, DDS_TOKEN_ISSUER and
DDS_TOKEN_AUDIENCE, as of the control plane. Whoever can read the directory can be anybody.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 2 when it cannot be done as asked."""
    options = _parser().parse_args(arguments)
    try:
        settings = load_settings()
        options.keys = options.keys or settings.signing_keys_dir
        if options.keys is None:
            raise KeyDirectoryError("Name the directory: --keys, or DDS_SIGNING_KEYS_DIR.")
        options.issuer, options.audience = settings.token_issuer, settings.token_audience
        options.run(options)
    except (KeyDirectoryError, SettingsError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _new_key(options: argparse.Namespace) -> None:
    key = make_key(options.keys, active_from=datetime.now(UTC) + options.active_after)
    sys.stdout.write(f"{key.kid}\n")
    sys.stderr.write(f"made in {options.keys}; signs from {key.active_from.isoformat()}\n")


def _list(options: argparse.Namespace) -> None:
    keys = load_keys(options.keys)
    now = datetime.now(UTC)
    current = signing_key(keys, now).kid
    for key in keys.values():
        state = "waits" if key.active_from > now else "verifies"
        state = "signs" if key.kid == current else state
        sys.stdout.write(f"{key.kid}  {key.active_from.isoformat()}  {state}\n")


def _jwks(options: argparse.Namespace) -> None:
    ring = KeyRing(options.keys)
    sys.stdout.write(json.dumps(ring.jwks(), indent=2) + "\n")


def _issue(options: argparse.Namespace) -> None:
    role = Role(options.role)
    subject = options.subject or (FUNCTIONS_SUBJECT if role is Role.FUNCTIONS else _user())
    ring = KeyRing(options.keys, issuer=options.issuer, audience=options.audience)
    token, claims = ring.issue(subject=subject, role=role, lifetime=options.ttl)
    sys.stdout.write(f"{token}\n")
    sys.stderr.write(
        f"{role} {subject}, id {claims.token_id}, until {claims.expires_at.isoformat()}\n"
    )


def _user() -> str:
    """Who runs this, as the system says; in a container it may know no more than a number."""
    try:
        return getpass.getuser().lower()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        return f"uid-{os.getuid()}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m control_plane.security",
        description="Signing keys of the control plane, and tokens made with them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--keys", type=Path, metavar="DIR", help="the directory of keys (DDS_SIGNING_KEYS_DIR)"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    new_key = commands.add_parser("new-key", help="make a signing key; prints its id")
    new_key.add_argument(
        "--active-after",
        type=_duration,
        default=timedelta(),
        metavar="TIME",
        help="when it begins to sign, as 15m (default: at once); it verifies at once",
    )
    new_key.set_defaults(run=_new_key)
    commands.add_parser("list", help="the keys, and which one signs").set_defaults(run=_list)
    commands.add_parser("jwks", help="the public keys as a JSON Web Key Set").set_defaults(
        run=_jwks
    )
    issue = commands.add_parser("issue", help="print a token to standard output")
    issue.add_argument("--role", required=True, choices=[role.value for role in Role])
    issue.add_argument(
        "--subject",
        help="who: a consumer's id for consumers; default: your login name, or `functions`",
    )
    issue.add_argument(
        "--ttl",
        type=_duration,
        default=timedelta(hours=1),
        metavar="TIME",
        help="how long it is valid: 30s, 15m, 1h, 1d at most (default: 1h)",
    )
    issue.set_defaults(run=_issue)
    return parser


def _duration(text: str) -> timedelta:
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 30s, 15m or 1h")
    return timedelta(seconds=int(match[1]) * _SECONDS[match[2]])


if __name__ == "__main__":
    raise SystemExit(main())
