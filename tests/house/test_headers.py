"""Each public header compiles by itself, as C and as C++."""

from __future__ import annotations

import subprocess

import pytest
from house import HEADERS, ROOT, compiler, includes

FLAGS = ["-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{ROOT / 'include'}"]


def compile_alone(command, language, standard, header):
    # Twice: what guards against a second inclusion is part of the header.
    line = f"#include <allcores/{header.name}>\n"
    done = subprocess.run(
        [*command, f"-std={standard}", "-x", language, *FLAGS, "-"],
        input=line + line,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{header.name} as {standard}:\n{done.stderr}"


@pytest.mark.parametrize("header", HEADERS, ids=lambda path: path.name)
def test_a_header_compiles_alone_as_c17(header):
    command = compiler("CC", "cc", "gcc", "clang")
    if command is None:
        pytest.skip("skipped: no C compiler")
    compile_alone(command, "c", "c17", header)


@pytest.mark.parametrize("header", HEADERS, ids=lambda path: path.name)
def test_a_header_compiles_alone_as_cxx17(header):
    command = compiler("CXX", "c++", "g++", "clang++")
    if command is None:
        pytest.skip("skipped: no C++ compiler")
    compile_alone(command, "c++", "c++17", header)


def test_the_umbrella_includes_every_header():
    umbrella = ROOT / "include" / "allcores" / "allcores.h"
    included = {what for _, what in includes(umbrella)}
    wanted = {f"<allcores/{header.name}>" for header in HEADERS}
    assert included == wanted - {"<allcores/allcores.h>"}
