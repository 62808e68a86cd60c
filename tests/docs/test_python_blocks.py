"""Every Python block in the documentation runs and prints what the page says."""

from __future__ import annotations

import subprocess
import sys

import pytest
from blocks import KINDS, TIMEOUT_S, complaint, matches, of_kind, pages, read

BLOCKS = of_kind("python")


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_the_block_runs_and_prints_what_the_page_says(block, tmp_path):
    script = tmp_path / "block.py"
    script.write_text(block.text, "utf-8")
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    trouble = complaint(block, done.returncode, done.stdout, done.stderr)
    assert trouble is None, trouble


def test_every_block_is_of_a_known_kind():
    unknown = [
        f"{block}: {block.kind!r}"
        for page in pages()
        for block in read(page)
        if block.kind not in KINDS
    ]
    assert not unknown, "\n" + "\n".join(unknown)


def test_every_fence_is_closed():
    for page in pages():
        fences = [
            line
            for line in page.read_text("utf-8").splitlines()
            if line.lstrip().startswith("```")
        ]
        assert len(fences) == 2 * len(read(page)), page.name


def test_the_readme_and_the_tutorial_have_blocks_in_both_languages():
    for page in ("README.md", "docs/tutorial.md"):
        for kind in ("python", "c"):
            assert any(block.page == page for block in of_kind(kind)), (page, kind)


def test_dots_stand_for_anything_and_the_rest_must_be_equal():
    assert matches("took 3 ms\n", "took ... ms")
    assert not matches("took 3 s\n", "took ... ms")
    assert not matches("a\nb\n", "a\n")
