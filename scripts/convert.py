"""Convert a file of events into another format; the suffixes say which.

    python3 scripts/convert.py trades.avro trades.parquet

Prices, sizes, times and nulls come over exactly. Frame by frame: files may be larger than the
memory, but for MessagePack that is read. A file holds events of one kind.
"""

import argparse
import sys
from pathlib import Path

from marketdata.convert import SUFFIXES, convert
from marketdata.formats import FormatError


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 done, 1 failed, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        events = convert(options.source, options.target)
    except (FormatError, OSError) as error:
        print(f"not converted: {error}", file=sys.stderr)
        return 1
    print(f"{events:,} events: {options.source} → {options.target}")
    return 0


def _parser() -> argparse.ArgumentParser:
    known = ", ".join(f"{suffix} ({name})" for suffix, name in SUFFIXES.items())
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"Suffixes: {known}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, help="the file to read")
    parser.add_argument("target", type=Path, help="the file to write; replaced if it is there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
