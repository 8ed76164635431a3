"""The work that `peer` measures, against the same in plain Python."""

import json
from pathlib import Path

import pytest

from benchmarks import peer, peer_work
from benchmarks.figures import BenchmarkFailed
from marketdata.plans import compile_plan, encode_plan


def test_what_is_compared_is_what_the_filters_pass(tmp_path: Path) -> None:
    wanted = peer._views(4)
    events = peer._write_input(tmp_path / "in", 1)
    plan = compile_plan(1, [one.spec for one in wanted], created_at_ns=0)
    (tmp_path / "plan").write_bytes(encode_plan(plan))
    for side in ("ours", "benthos"):
        (tmp_path / side).mkdir()
    peer_work.main(tmp_path / "in", tmp_path / "plan", tmp_path / "ours")
    lines = (tmp_path / "in").read_text("utf-8").splitlines()
    quotes = [json.loads(line) for line in lines]
    for one in wanted:
        chosen = [quote for quote in quotes if _passes(one.check, quote)]
        rows = [{"kind": "quote", **{n: q[c] for c, n in peer.COLUMNS.items()}} for q in chosen]
        csv = one.spec.format == "csv"
        texts = [",".join(row.values()) if csv else json.dumps(row) for row in rows]
        (tmp_path / "benthos" / one.view.id).write_text("\n".join(texts) + "\n", "utf-8")
    assert events == len(quotes)
    assert 0 < peer._compare(tmp_path, wanted) < events
    (tmp_path / "benthos" / wanted[0].view.id).write_text("", "utf-8")
    with pytest.raises(BenchmarkFailed, match="differ"):
        peer._compare(tmp_path, wanted)


def _passes(check: str, quote: dict[str, str]) -> bool:
    """A check in Bloblang, as Python reads it."""
    names, term = check.split(" && ")
    listed = json.loads(names.removesuffix(".contains(this.instrument)"))
    if term.endswith(".contains(this.venue)"):
        venues = json.loads(term.removesuffix(".contains(this.venue)"))
        return quote["instrument"] in listed and quote["venue"] in venues
    bound = float(term.rpartition("> ")[2])
    return quote["instrument"] in listed and float(quote["bid_price"] or 0) > bound
