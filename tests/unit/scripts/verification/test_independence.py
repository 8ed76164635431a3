"""The checker shares no code with what it checks."""

import ast
from pathlib import Path

import scripts.verification

FORBIDDEN = (
    "functions",
    "marketdata.filters",
    "marketdata.continuity",
    "marketdata.transformations",
    "marketdata.formats",
    "marketdata.redelivery",
    "marketdata.consumer",
    "marketdata.delivered_frames",
    "marketdata.delivery_continuity",
    "marketdata.findings",
    "marketdata.gap_filling",
    "marketdata.holes",
    "marketdata.inspection",
    "marketdata.instrument_continuity",
    "marketdata.missing_events",
    "marketdata.view_history",
)


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_no_module_imports_what_it_checks() -> None:
    folder = Path(scripts.verification.__file__).parent
    for path in folder.glob("*.py"):
        for name in imported(path):
            assert not any(name == f or name.startswith(f"{f}.") for f in FORBIDDEN), (path, name)
