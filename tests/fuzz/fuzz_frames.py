#!/usr/bin/env python3
"""Fuzzes the frame decoder, guided by coverage: `fuzz_frames.py --seconds 300`.

Needs atheris, which has wheels for Linux. Ends with 0 when time or runs are used up, and otherwise
with the input that broke a promise written to `--artifacts`; run it again on that file alone to see
the failure: `fuzz_frames.py --input FILE`.
"""

import argparse
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
HOME = CHECKOUT / ".dds-fuzz"
sys.path[:0] = [str(CHECKOUT), str(Path(__file__).parent)]

import atheris  # noqa: E402  (needs the path above, as all below)

with atheris.instrument_imports(include=["marketdata.frames", "marketdata.declared_sizes"]):
    import marketdata.frames  # noqa: F401  (imported to be instrumented)

from frame_check import check_frame  # noqa: E402
from frame_mutations import Mutator, seeds  # noqa: E402

MAX_INPUT_BYTES = 1 << 16
TIMEOUT_S = 20
RSS_LIMIT_MB = 2048


def main() -> None:
    """Fuzz as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=60, help="(default 60)")
    parser.add_argument("--runs", type=int, default=-1, help="inputs at most (default no limit)")
    parser.add_argument("--seed", type=int, default=0, help="(default 0: a new one each time)")
    parser.add_argument(
        "--corpus",
        type=Path,
        default=HOME / "corpus",
        help="what brought new coverage is kept here",
    )
    parser.add_argument("--artifacts", type=Path, default=HOME, help="folder for what broke it")
    parser.add_argument("--input", type=Path, help="check this file only")
    options = parser.parse_args()
    if options.input is not None:
        sys.stdout.write(check_frame(options.input.read_bytes()) + "\n")
        return
    options.artifacts.mkdir(parents=True, exist_ok=True)
    options.corpus.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(seeds()):
        (options.corpus / f"seed-{number:03}").write_bytes(frame)
    arguments = [
        sys.argv[0],
        f"-max_total_time={options.seconds}",
        f"-runs={options.runs}",
        f"-max_len={MAX_INPUT_BYTES}",
        f"-timeout={TIMEOUT_S}",
        f"-rss_limit_mb={RSS_LIMIT_MB}",
        f"-artifact_prefix={options.artifacts}/",
        "-print_final_stats=1",
        *([f"-seed={options.seed}"] if options.seed else []),
        str(options.corpus),
    ]
    atheris.Setup(arguments, _one_input, custom_mutator=Mutator())
    atheris.Fuzz()


def _one_input(data: bytes) -> None:
    check_frame(data)


if __name__ == "__main__":
    main()
