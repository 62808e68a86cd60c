"""What the structural tests share: the tree, its files, what a C file says.

The tests in this folder read the source tree and the built library. They check
what a reader relies on and a compiler does not: who includes whom, what is
exported, that files are of a size to be read.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("ALLCORES_BUILD_DIR") or ROOT / "build" / "release")
HEADERS = sorted((ROOT / "include" / "allcores").glob("*.h"))

_TOKEN = re.compile(
    r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL
)


def tracked_files() -> list[Path]:
    """Return the files of the tree, without what is built or ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        names = listed.stdout.decode().split("\0")
        return [ROOT / name for name in sorted(set(names)) if (ROOT / name).is_file()]
    # An unpacked archive: everything but what `make` leaves behind.
    skip = {".git", ".venv", ".bench-venv", "build", "out", "dist", "__pycache__"}
    return sorted(
        path
        for path in ROOT.rglob("*")
        if path.is_file() and not skip & set(path.relative_to(ROOT).parts)
    )


def c_files(*folders: str) -> list[Path]:
    """Return the C sources and headers under the folders given."""
    tops = [ROOT / folder for folder in folders]
    return [
        path
        for path in tracked_files()
        if path.suffix in (".c", ".h") and any(top in path.parents for top in tops)
    ]


def name(path: Path) -> str:
    """Return a path as a person would write it: from the root of the tree."""
    return path.relative_to(ROOT).as_posix()


def without_comments(text: str) -> str:
    """Blank out comments and the insides of literals, keeping every line."""

    def blank(match: re.Match[str]) -> str:
        token = match.group()
        if token[0] in "\"'":
            return token[0] * 2
        return "\n" * token.count("\n") or " "

    return _TOKEN.sub(blank, text)


def top_comment(text: str) -> str:
    """Return the block comment that opens a file; "" if there is none."""
    match = re.match(r"\s*/\*.*?\*/", text, re.DOTALL)
    return match.group() if match else ""


def includes(path: Path) -> list[tuple[int, str]]:
    """Return (line, what) for each #include, `what` with its quotes or brackets."""
    found = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        match = re.match(r'\s*#\s*include\s+("[^"]+"|<[^>]+>)', line)
        if match:
            found.append((number, match.group(1)))
    return found


def compiler(variable: str, *candidates: str) -> list[str] | None:
    """Return the command named by an environment variable, else the first found."""
    if os.environ.get(variable):
        return os.environ[variable].split()
    for candidate in candidates:
        if shutil.which(candidate):
            return [candidate]
    return None
