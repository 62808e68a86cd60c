"""The code blocks of the documentation, as programs to be run.

A block is fenced by three backticks and opens with its kind:

    python   a whole program; it must end without an error
    c        a whole program; compiled against the library and run
    text     right after one of those: what it prints; "..." stands for anything
    sh       commands for the reader; not run

There are no other kinds, so nothing is left out by a misspelt one.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("ALLCORES_BUILD_DIR") or ROOT / "build" / "release")
LIBRARY = BUILD / "src" / "liballcores.so"
KINDS = {"python", "c", "text", "sh"}
TIMEOUT_S = 120

_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass
class Block:
    """A fenced block: where it stands, what it holds, what it should print."""

    page: str
    line: int
    kind: str
    text: str
    output: str | None = None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Return the pages whose blocks are run."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def read(page: Path) -> list[Block]:
    """Return the blocks of a page, each with the output that follows it."""
    text = page.read_text("utf-8")
    name = page.relative_to(ROOT).as_posix()
    found: list[Block] = []
    end = 0
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        block = Block(name, line, match.group(1), match.group(2))
        follows = found and not text[end : match.start()].strip()
        if block.kind == "text" and follows and found[-1].kind in ("python", "c"):
            found[-1].output = block.text
        found.append(block)
        end = match.end()
    return found


def of_kind(kind: str) -> list[Block]:
    return [block for page in pages() for block in read(page) if block.kind == kind]


def matches(printed: str, expected: str) -> bool:
    """Return whether a program printed what the page says; "..." is anything."""
    parts = [re.escape(part) for part in expected.strip().split("...")]
    return re.fullmatch(".*?".join(parts), printed.strip(), re.DOTALL) is not None


def complaint(block: Block, returncode: int, printed: str, errors: str) -> str | None:
    """Return what is wrong with a run of a block; None if nothing is."""
    if returncode != 0:
        return f"{block} ended with {returncode}:\n{printed}{errors}"
    if block.output is not None and not matches(printed, block.output):
        return f"{block} printed:\n{printed}\nand not:\n{block.output}"
    return None
