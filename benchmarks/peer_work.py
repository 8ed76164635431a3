"""The work of `peer` by this project's operators, as a process of its own.

Reads NDJSON, routes it by a plan of views, transforms, converts, and appends what each view gets to
a file of its own: the operators are those of the distributor.

    python -m benchmarks.peer_work INPUT PLAN OUTPUT_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa

from functions.operators.render import render
from functions.operators.route import Router
from marketdata.cutting import cut
from marketdata.formats import get_format
from marketdata.frames import frame_kind
from marketdata.plans import decode_plan
from marketdata.splitting import split_rows

FRAME_ROWS = 8192


def main(source: Path, plan: Path, folder: Path) -> None:
    """Do it, on one thread."""
    pa.set_cpu_count(1)
    router = Router(decode_plan(plan.read_bytes()))
    reader = get_format("json")
    with source.open("rb") as file:
        for text in cut(file, "json", FRAME_ROWS):
            batch = reader.decode(text)
            routed = [
                (view, rows)
                for view, rows in router.route(batch, frame_kind(batch))
                if rows is not None
            ]
            pieces = split_rows(batch, [rows for _, rows in routed])
            for (view, _), piece in zip(routed, pieces, strict=True):
                (data,) = render(view, piece).messages
                with (folder / view.id).open("ab") as target:
                    target.write(data)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
