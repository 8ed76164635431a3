"""`python -m control_plane.domains.audit verify`: check the audit log at the database itself.

No control plane is asked: DDS_DATABASE_URL names the database, and the digests are computed here.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections.abc import Sequence

from control_plane.database import Database
from control_plane.domains.audit.chain import Head
from control_plane.domains.audit.controller import MOST_VERIFIED, noted_head
from control_plane.domains.audit.schemas import VerificationOut
from control_plane.domains.audit.service import AuditService
from control_plane.errors import ControlPlaneError
from control_plane.settings import SettingsError, load_settings

_EPILOG = """\
examples:
  %(prog)s verify                          the whole chain; prints its head
  %(prog)s verify --head 4711:9f3c…        … and whether a head noted before is still in it

exit codes: 0 the chain holds, 1 it does not, 2 it could not be checked
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command."""
    options = _parser().parse_args(arguments)
    try:
        found = asyncio.run(_verify(load_settings().database_url, options.head))
    except (ControlPlaneError, SettingsError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{found.verified.sequence}:{found.verified.digest}\n")
    if found.broken is not None:
        sys.stderr.write(f"BROKEN at entry {found.broken.sequence}: {found.broken.reason}\n")
    for table in found.silenced:
        sys.stderr.write(f"NOT RECORDED: triggers of {table} are switched off\n")
    if found.unsealed:
        sys.stderr.write(f"{found.unsealed} entries not sealed, since {found.unsealed_since}\n")
    return 0 if found.holds else 1


async def _verify(url: str, noted: Head | None) -> VerificationOut:
    database = Database(url, pool_size=2)
    try:
        audit = AuditService(database, seal_seconds=1)
        found = await audit.verify(limit=MOST_VERIFIED, noted=noted)
        while found.next_after is not None:
            found = await audit.verify(after=found.next_after, limit=MOST_VERIFIED)
        return found
    finally:
        await database.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m control_plane.domains.audit",
        description="The audit log of the control plane.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    verify = commands.add_parser("verify", help="compute the digests of all entries again")
    verify.add_argument(
        "--head",
        type=_head,
        metavar="SEQUENCE:DIGEST",
        help="a head that was printed, answered or logged before; must be there still",
    )
    return parser


def _head(written: str) -> Head | None:
    if re.fullmatch(r"[0-9]{1,18}:[0-9a-f]{64}", written) is None:
        raise argparse.ArgumentTypeError(f"{written!r} is no head such as 4711:<64 hex digits>")
    return noted_head(written)


if __name__ == "__main__":
    raise SystemExit(main())
