"""Every C block in the documentation compiles against the library without a
warning, runs, and prints what the page says."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from blocks import LIBRARY, ROOT, TIMEOUT_S, complaint, of_kind

FLAGS = ["-O1", "-Wall", "-Wextra", "-Werror"]


@pytest.fixture(scope="module")
def compiler() -> list[str]:
    """Return the C compiler's command."""
    if not LIBRARY.exists():
        pytest.skip(f"skipped: {LIBRARY.name} is not built")
    if os.environ.get("CC"):
        return os.environ["CC"].split()
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    pytest.skip("skipped: no C compiler")


def run(command, folder) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.mark.parametrize("block", of_kind("c"), ids=str)
def test_the_block_compiles_runs_and_prints_what_the_page_says(
    block, compiler, tmp_path
):
    source, program = tmp_path / "block.c", tmp_path / "block"
    source.write_text(block.text, "utf-8")
    folder = LIBRARY.parent
    paths = [f"-I{ROOT / 'include'}", f"-L{folder}", f"-Wl,-rpath,{folder}"]
    command = [*compiler, *FLAGS, source, "-o", program, *paths, "-lallcores", "-lm"]
    built = run(command, tmp_path)
    assert built.returncode == 0, f"{block}:\n{built.stderr}"
    done = run([program], tmp_path)
    trouble = complaint(block, done.returncode, done.stdout, done.stderr)
    assert trouble is None, trouble
