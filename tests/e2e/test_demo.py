"""The demo is green, twice in a row on one stack."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.devstack.component import CHECKOUT, process_environment
from tests.stacks.interface import RunningStack

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.any_stack,
    pytest.mark.cluster,
    pytest.mark.timeout(900),
]


def test_the_demo_is_green_twice_in_a_row(stack: RunningStack, tmp_path: Path) -> None:
    environment = stack.environment()
    for number in range(2):
        prepare = not number and "DDS_DATABASE_URL" in environment
        figures = tmp_path / f"{number}.json"
        ended = subprocess.run(
            [
                sys.executable,
                "scripts/demo.py",
                *("--rate", "20000", "--json", str(figures)),
                *([] if prepare else ["--no-prepare"]),
            ],
            cwd=CHECKOUT,
            env=process_environment(environment),
            capture_output=True,
            text=True,
            check=False,
        )

        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "nothing lost, nothing doubled, nothing out of order" in ended.stdout
        document = json.loads(figures.read_text())
        assert set(document) == {
            "published",
            "sequenced",
            "subscriptions",
            "latency_ms",
            "events_per_second",
        }
        assert document["published"] == document["sequenced"] > 19_000
        assert len(document["subscriptions"]) >= 4
        for one in document["subscriptions"]:
            assert list(one) == [
                "name",
                "format",
                "expected",
                "delivered",
                "missing",
                "duplicates",
                "out_of_order",
            ]
            assert one["delivered"] == one["expected"] > 0
            assert one["missing"] == one["duplicates"] == one["out_of_order"] == 0
        assert {one["format"] for one in document["subscriptions"]} == {"arrow", "json"}
        latency = document["latency_ms"]
        assert 0 < latency["p50"] <= latency["p99"] <= latency["max"]
        assert document["events_per_second"] > 0
