"""What is in the tree is built, tested and packaged: nothing is forgotten."""

from __future__ import annotations

import re

from house import ROOT, c_files, name, tracked_files


def listed(*build_files: str) -> set[str]:
    """Return the files that the given meson.build files name, from the root."""
    found = set()
    for build_file in build_files:
        path = ROOT / build_file
        for word in re.findall(r"'([^'\n]+\.\w+)'", path.read_text("utf-8")):
            whole = (path.parent / word).resolve()
            if whole.is_relative_to(ROOT):
                found.add(name(whole))
    return found


def missing(files, *build_files: str) -> list[str]:
    return sorted({name(path) for path in files} - listed(*build_files))


def test_every_source_and_unit_test_is_listed():
    sources = [path for path in c_files("src") if path.suffix == ".c"]
    assert missing(sources, "src/meson.build") == []


def test_every_public_header_is_installed():
    assert missing(c_files("include"), "include/allcores/meson.build") == []


def test_the_command_and_the_c_examples_are_built():
    sources = [path for path in c_files("cli", "examples") if path.suffix == ".c"]
    assert missing(sources, "cli/meson.build", "examples/meson.build") == []


def test_every_c_test_is_listed():
    # Fuzzers and the model checker are built by scripts of their own.
    others = {ROOT / "tests" / "fuzz", ROOT / "tests" / "model"}
    tests = [
        path
        for path in c_files("tests")
        if path.suffix == ".c" and not others & set(path.parents)
    ]
    assert missing(tests, "tests/meson.build") == []


def test_the_package_holds_every_python_file_and_extension():
    folder = ROOT / "python" / "allcores"
    package = [
        path
        for path in tracked_files()
        if folder in path.parents
        and (path.suffix in (".py", ".pyi") or path.name == "py.typed")
    ]
    extensions = [path for path in c_files("python/ext") if path.suffix == ".c"]
    files = package + extensions
    assert missing(files, "python/meson.build", "python/ext/meson.build") == []


def test_what_the_package_needs_is_what_make_installs():
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    listed = re.search(r"^dependencies = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)
    needs = set(re.findall(r'"([^"]+)"', listed.group(1)))
    lines = (ROOT / "scripts" / "tools-package.txt").read_text("utf-8").splitlines()
    assert {line for line in lines if line and not line.startswith("#")} == needs
