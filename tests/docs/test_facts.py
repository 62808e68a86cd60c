"""What the pages say of names and figures is what the code says.

A figure in docs/explanation.md that a constant decides is listed here with it, so
that whoever changes one hears of the other.
"""

from __future__ import annotations

import re

import allcores
import pytest
from blocks import ROOT

REFERENCE = ROOT / "docs" / "reference.md"
EXPLANATION = ROOT / "docs" / "explanation.md"


def section(page, heading: str) -> str:
    """Return a page's text under a heading, up to the next of its rank."""
    text = page.read_text("utf-8")
    rank = heading.split()[0]
    after = text.split(f"\n{heading}", 1)[1]
    return re.split(rf"^{rank} ", after, maxsplit=1, flags=re.MULTILINE)[0]


def sources(*folders: str) -> str:
    return "\n".join(
        path.read_text("utf-8")
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.[ch]"))
        if not path.name.endswith("_test.c")
    )


def test_the_table_of_environment_variables_is_complete():
    read = set(re.findall(r'getenv\("(\w+)"\)', sources("src", "cli", "python")))
    table = section(REFERENCE, "## Environment variables")
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == read


def test_every_public_function_is_in_the_reference():
    headers = "\n".join(
        path.read_text("utf-8") for path in (ROOT / "include/allcores").glob("*.h")
    )
    code = re.sub(r"/\*.*?\*/", "", headers, flags=re.DOTALL)
    functions = set(re.findall(r"\b(ac_[a-z]\w*)\s*\([^)]*\)\s*[;{]", code))
    assert {"ac_for", "ac_sum", "ac_spawn", "ac_status_name"} <= functions
    said = set(re.findall(r"`(ac_\w+)`", section(REFERENCE, "## C")))
    assert functions - said == set()
    assert said - set(re.findall(r"\bac_\w+", headers)) == set()


def test_every_status_is_in_the_reference_with_its_sentence():
    header = (ROOT / "include/allcores/status.h").read_text("utf-8")
    rows = re.findall(r'X\((AC_\w+), -?\d+, "([^"]+)"\)', header)
    table = section(REFERENCE, "### status.h")
    assert re.findall(r"^\| `(AC_\w+)` \| (.*) \|$", table, re.MULTILINE) == rows


def test_every_python_name_is_in_the_reference():
    text = section(REFERENCE, "## Python")
    said = set(re.findall(r"\bac\.(\w+)", text))
    assert set(allcores.__all__) <= said
    assert all(hasattr(allcores, name) for name in said)


def constant(path: str, name: str) -> float:
    """Return a constant that a C file defines, by enum or macro."""
    text = (ROOT / path).read_text("utf-8")
    found = re.search(rf"\b{name}(?: =)?\s+([\d.e]+|UINT64_C\(\d+\))", text)
    assert found, f"{path} has no {name}"
    return float(re.sub(r"UINT64_C\((\d+)\)", r"\1", found.group(1)))


@pytest.mark.parametrize(
    ("path", "name", "value", "said"),
    [
        ("src/algo/cost.c", "SMALL_NS", 600, "below 0.6 µs"),
        ("src/algo/cost.c", "WAKE_NS", 25_000, "0.6 to 25 µs"),
        ("src/algo/cost.c", "CONTESTED_NS", 1e6, "Between 0.6 µs and 1 ms"),
        ("src/algo/cost.c", "BETTER", 0.97, "must gain 3 %"),
        ("src/algo/cost.c", "PERIOD_FIRST", 4, "first after 4 calls"),
        ("src/algo/cost.c", "PERIOD_SHARED_LAST", 65_536, "every 65,536 calls"),
        ("src/algo/cost.c", "PERIOD_ALONE_LAST", 512, "up to every 512"),
        ("src/algo/cost.c", "TABLE_SIZE", 2048, "2,048 entries"),
        ("src/algo/loop.c", "CHUNK_NS", 2000, "2 µs, measured"),
        ("src/algo/loop.c", "WAKE_WORK_NS", 10_000, "for every 10 µs"),
        ("src/algo/loop.c", "LAG_NS", 150, "about 0.15 µs"),
        ("src/algo/reduce.c", "LEAF_MAX", 1024, "min(1024, n / 256)"),
        ("src/algo/reduce.c", "LEAVES_MIN", 256, "min(1024, n / 256)"),
        ("src/team/await.c", "SPIN_NS", 40_000, "about 40 µs"),
        ("src/team/worker.c", "SPIN_SHORT_NS", 20_000, "for 20 µs"),
        ("src/team/worker.c", "SPIN_LONG_NS", 200_000, "for 200 µs"),
        ("src/team/worker.c", "SENTINEL_NS", 5e6, "wakes every 5 ms"),
        ("src/budget/ledger.h", "AC__LOOK_NS", 1e7, "most every 10 ms"),
        ("src/budget/ledger.h", "AC__ASLEEP_NS", 5e7, "after 50 ms"),
    ],
)
def test_a_figure_of_the_explanation_is_the_code_s(path, name, value, said):
    assert constant(path, name) == value
    text = " ".join(EXPLANATION.read_text("utf-8").split())
    assert said in text, f"the explanation no longer says {said!r}"
