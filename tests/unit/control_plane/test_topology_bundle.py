"""Bundles: equal sources give equal bytes, and only the packages are inside."""

import io
import os
import zipfile
from pathlib import Path

import pytest

from control_plane.topology import BundleError, build_bundle
from control_plane.topology.bundle import bundle_of


@pytest.fixture
def packages(tmp_path: Path) -> dict[str, Path]:
    for name in ("functions", "marketdata"):
        for sub in ("", "inner", "__pycache__", "tests"):
            (tmp_path / name / sub).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "__init__.py").write_text("")
        (tmp_path / name / "inner" / "code.py").write_text("X = 1\n")
        (tmp_path / name / "__pycache__" / "code.pyc").write_bytes(b"x")
        (tmp_path / name / "tests" / "test_code.py").write_text("")
        (tmp_path / name / ".hidden").write_text("")
    return {name: tmp_path / name for name in ("marketdata", "functions")}


def names(content: bytes) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.namelist()


def test_only_the_packages_are_inside_under_one_top_folder(packages: dict[str, Path]) -> None:
    bundle = build_bundle(packages, "1.2")
    top = bundle.name.removesuffix(".zip")
    assert top == f"dds-1.2-{bundle.digest[:12]}"
    assert names(bundle.content) == [
        f"{top}/src/functions/__init__.py",
        f"{top}/src/functions/inner/code.py",
        f"{top}/src/marketdata/__init__.py",
        f"{top}/src/marketdata/inner/code.py",
    ]


def test_times_and_order_do_not_matter(packages: dict[str, Path]) -> None:
    first = build_bundle(packages, "1")
    for folder in packages.values():
        for file in folder.rglob("*.py"):
            os.utime(file, (1, 1))
    assert build_bundle(dict(reversed(packages.items())), "1") == first


def test_any_other_content_or_name_is_another_digest(packages: dict[str, Path]) -> None:
    first = build_bundle(packages, "1")
    code = packages["functions"] / "inner" / "code.py"
    code.write_text("X = 2\n")
    second = build_bundle(packages, "1")
    code.rename(code.with_name("other.py"))
    assert len({first.digest, second.digest, build_bundle(packages, "1").digest}) == 3


def test_a_bundle_read_back_has_its_name(packages: dict[str, Path]) -> None:
    bundle = build_bundle(packages, "1")
    assert bundle_of(bundle.content, bundle.digest) == bundle
    with pytest.raises(ValueError, match="no zip"):
        bundle_of(b"nothing", "")


def test_a_folder_that_is_no_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no __init__"):
        build_bundle({"functions": tmp_path}, "1")
