"""`meson install` gives a C programmer all that a program needs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from house import BUILD, HEADERS, compiler

PROGRAM = """\
#include <allcores/allcores.h>
#include <stdio.h>
int main(void) { return puts(ac_version()) < 0; }
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Install the build into a folder of its own; return the prefix there."""
    meson = Path(sys.executable).with_name("meson")
    if not meson.exists():
        pytest.skip("skipped: meson is not installed")
    if not (BUILD / "build.ninja").exists():
        pytest.skip(f"skipped: {BUILD.name} is not built")
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run(
        [meson, "install", "-C", BUILD, "--no-rebuild", "--destdir", folder],
        capture_output=True,
        check=True,
    )
    [pc] = folder.rglob("allcores.pc")
    prefix = re.search(r"^prefix=(.*)$", pc.read_text("utf-8"), re.MULTILINE)
    return folder / prefix.group(1).lstrip("/")


def variables(prefix: Path) -> dict[str, str]:
    """Return what allcores.pc says, its prefix being where it is now."""
    [pc] = prefix.rglob("allcores.pc")
    text = pc.read_text("utf-8")
    text = re.sub(r"^prefix=.*$", f"prefix={prefix}", text, flags=re.MULTILINE)
    said: dict[str, str] = {}
    for key, value in re.findall(r"^([\w.]+)\s*[=:]\s*(.*)$", text, re.MULTILINE):
        for known, meaning in said.items():
            value = value.replace(f"${{{known}}}", meaning)
        said[key] = value
    return said


def run(prefix: Path, command: list[str]) -> str:
    library = Path(variables(prefix)["libdir"])
    environment = os.environ | {"LD_LIBRARY_PATH": str(library)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(prefix: Path, tmp_path: Path, flags: list[str]) -> list[str]:
    command = compiler("CC", "cc", "gcc", "clang")
    if command is None:
        pytest.skip("skipped: no C compiler")
    source, program = tmp_path / "program.c", tmp_path / "program"
    source.write_text(PROGRAM, "utf-8")
    include = variables(prefix)["Cflags"].split()
    command = [*command, "-std=c17", "-Werror", *include, "-o", program, source, *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [str(program)]


def test_headers_libraries_and_the_command_are_installed(installed):
    headers = {path.name for path in (installed / "include/allcores").iterdir()}
    assert headers == {path.name for path in HEADERS}
    library = Path(variables(installed)["libdir"])
    names = {"liballcores.so", "liballcores.so.0", "liballcores.a"}
    assert names <= {path.name for path in library.iterdir()}
    printed = run(installed, [str(installed / "bin/allcores"), "--version"])
    assert variables(installed)["Version"] in printed


def test_a_program_links_to_the_shared_library(installed, tmp_path):
    said = variables(installed)
    program = build(installed, tmp_path, said["Libs"].split())
    assert run(installed, program).strip() == said["Version"]


def test_a_program_links_to_the_static_library(installed, tmp_path):
    said = variables(installed)
    archive = str(Path(said["libdir"]) / "liballcores.a")
    program = build(installed, tmp_path, [archive, *said["Libs.private"].split()])
    assert run(installed, program).strip() == said["Version"]
