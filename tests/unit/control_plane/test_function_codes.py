"""A function that is deleted by hand is created again with the code that it had."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from control_plane.database import Database
from control_plane.domains.functions import repository as code_rows
from control_plane.domains.functions.codes import FunctionCodes
from control_plane.function_keeper import Patience
from control_plane.pulsar_admin import AdminUnavailable, PulsarAdmin
from control_plane.settings import REPOSITORY_ROOT
from control_plane.topology import (
    Actual,
    Bundle,
    Change,
    FunctionSpec,
    FunctionState,
    build_bundle,
    load_topology,
)
from control_plane.topology.model import BUNDLE_DIGEST

SEQUENCER, DISTRIBUTOR = "marketdata/functions/sequencer", "marketdata/functions/distributor"


class Codes:
    """The admin API as far as code is asked for."""

    def __init__(self, code: bytes) -> None:
        self.code = code
        self.asked: list[str] = []
        self.down = False

    async def function_code(self, name: str) -> bytes:
        self.asked.append(name)
        if self.down:
            raise AdminUnavailable("down")
        return self.code


def bundle(folder: Path) -> Bundle:
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").write_text("")
    return build_bundle({"package": folder / "package"}, "1")


def codes_of(database: Database, admin: Codes) -> FunctionCodes:
    return FunctionCodes(database, cast(PulsarAdmin, admin))


def deployed(*names: str, digest: str) -> Actual:
    config = {"userConfig": {BUNDLE_DIGEST: digest}}
    return Actual(functions={name: FunctionState(name, config) for name in names})


async def test_the_code_outlives_function_and_control_plane(
    database: Database, tmp_path: Path
) -> None:
    topology = load_topology(REPOSITORY_ROOT / "topology").only_functions()
    made = bundle(tmp_path)
    codes = Codes(made.content)
    seen = deployed(SEQUENCER, digest=made.digest)
    first = codes_of(database, codes)
    for _ in range(2):
        kept = await first.keep(topology, seen)
    assert (dict(kept), codes.asked) == ({SEQUENCER: made.digest}, [SEQUENCER])

    second = codes_of(database, Codes(b""))
    kept = await second.keep(topology, deployed(digest=""))
    assert dict(kept) == {SEQUENCER: made.digest}
    spec = topology.functions[SEQUENCER]
    change = await second.add(Change("create", "function", SEQUENCER, desired=spec))
    assert isinstance(change.desired, FunctionSpec)
    assert change.desired.bundle == made
    assert change.desired.user_config[BUNDLE_DIGEST] == made.digest


async def test_new_code_replaces_the_old_and_what_cannot_be_had_is_tried_again(
    database: Database, tmp_path: Path
) -> None:
    topology = load_topology(REPOSITORY_ROOT / "topology").only_functions()
    codes = Codes(bundle(tmp_path).content)
    one = codes_of(database, codes)
    codes.down = True
    assert not await one.keep(topology, deployed(SEQUENCER, digest="a"))
    codes.down = False
    await one.keep(topology, deployed(SEQUENCER, digest="a"))
    await one.keep(topology, deployed(SEQUENCER, digest="b"))
    async with database.transaction() as session:
        assert await code_rows.digests(session) == {SEQUENCER: "b"}
        assert await code_rows.kept(session, DISTRIBUTOR) is None


def test_a_function_that_is_gone_is_given_the_time_of_a_redeployment() -> None:
    gone = Change("create", "function", SEQUENCER)
    patience = Patience(8)
    assert [patience.due([gone], now) for now in (0, 5, 7.9)] == [[], [], []]
    assert patience.due([gone], 8) == [gone]
