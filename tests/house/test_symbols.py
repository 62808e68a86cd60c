"""The shared library exports what the public headers declare, and no more."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from house import BUILD, HEADERS, without_comments


def declared() -> set[str]:
    """Return the names that the public headers declare with AC_API."""
    names = set()
    for header in HEADERS:
        text = without_comments(header.read_text("utf-8"))
        text = re.sub(r"^\s*#(?:[^\n]*\\\n)*[^\n]*", "", text, flags=re.MULTILINE)
        for declaration in re.findall(r"\bAC_API\b([^;{]*)", text):
            match = re.search(r"\b(ac_\w+)\s*(?:\(|\[|$)", declaration.strip())
            assert match, f"{header.name}: not understood: {declaration}"
            names.add(match.group(1))
    return names


def exported(library: Path) -> set[str]:
    """Return the names that a shared library defines for others."""
    if shutil.which("nm") is None:
        pytest.skip("skipped: no nm")
    table = subprocess.run(
        ["nm", "-D", "--defined-only", str(library)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    rows = [line.split() for line in table.splitlines()]
    # Type A: the name of the version itself.
    return {row[-1].partition("@")[0] for row in rows if row[-2] != "A"}


def compare(library: Path) -> None:
    want, have = declared(), exported(library)
    assert not want - have, f"declared but not exported: {sorted(want - have)}"
    assert not have - want, f"exported but not declared: {sorted(have - want)}"


def package() -> Path:
    spec = importlib.util.find_spec("allcores")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("skipped: the package allcores is not installed")
    return Path(spec.submodule_search_locations[0])


def test_the_headers_declare_something():
    assert {"ac_for", "ac_version", "ac__notify"} <= declared()


def test_the_library_exports_the_declared_names_and_no_others():
    library = BUILD / "src" / "liballcores.so"
    if not library.exists():
        pytest.skip("skipped: liballcores.so is not built")
    compare(library)


def test_the_library_in_the_package_exports_the_same():
    compare(package() / "liballcores.so")


def test_the_package_holds_the_library_once_and_no_c_files():
    held = [p for p in package().rglob("*") if p.is_file()]
    names = sorted(p.name for p in held)
    assert [n for n in names if n.startswith("liballcores")] == ["liballcores.so"]
    assert [n for n in names if n.endswith((".c", ".h", ".a", ".pc"))] == []
    assert "py.typed" in names


def test_the_extension_finds_the_library_beside_it():
    extensions = [
        p for p in package().glob("*.so") if not p.name.startswith("liballcores")
    ]
    assert extensions
    if shutil.which("readelf") is None:
        pytest.skip("skipped: no readelf")
    for extension in extensions:
        dynamic = subprocess.run(
            ["readelf", "-d", str(extension)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert "liballcores.so" in dynamic
        paths = re.findall(r"\((?:RUNPATH|RPATH)\).*\[(.*)\]", dynamic)
        assert paths == ["$ORIGIN"], f"{extension.name}: {paths}"
