"""Who may include whom.

Modules form layers. A module includes the modules below it, through their face
`<module>/<module>.h` only; those of base and sync are small tools, open as a
whole. What stands outside src sees what a user sees: <allcores/…>.
"""

from __future__ import annotations

import pytest
from house import ROOT, c_files, includes, name, top_comment

# Each module's arrows; what those reach is allowed too.
ARROWS = {
    "base": [],
    "trace": ["base"],
    "os": ["base"],
    "sync": ["os"],
    "budget": ["sync"],
    "team": ["budget"],
    "algo": ["team"],
    "limits": ["team"],
    "shm": ["sync"],
    "procs": ["shm", "budget"],
    "kernel": ["os"],
    "expr": ["kernel", "algo"],
}
OPEN = {"base", "sync"}  # every header may be included from above
TEST_HEADERS = {"check.h"}

# Only src/os calls the system. (What the C library offers everywhere, such as
# threads' keys and locks, is no system call of ours.)
SYSTEM = ("<sys/", "<linux/", "<asm/", "<sched.h>", "<fcntl.h>", "<unistd.h>")


def reach(module: str) -> set[str]:
    """Return the modules that `module` may include, itself and trace among them."""
    seen, todo = set(), [module, "trace"]
    while todo:
        one = todo.pop()
        if one not in seen:
            seen.add(one)
            todo += ARROWS[one]
    return seen


def src_complaint(path, what: str) -> str | None:
    """Return what is wrong with an #include in a file of src; None if nothing."""
    module = path.relative_to(ROOT / "src").parts[0]
    is_test = path.name.endswith("_test.c")
    if what == "<Python.h>":
        return "only python/ext may include Python.h"
    if what.startswith("<"):
        if what.startswith(SYSTEM) and module not in ("os", "trace") and not is_test:
            return "only src/os calls the system"
        return None
    target = what.strip('"')
    if is_test and target in TEST_HEADERS:
        return None
    if "/" not in target:
        return f'write "{module}/{target}": paths begin at src'
    other, _, rest = target.partition("/")
    if not (ROOT / "src" / target).is_file():
        return "there is no such file under src"
    if other not in reach(module):
        return f"no arrow leads from {module} to {other}"
    if other == module or other in OPEN or rest == f"{other}.h" or is_test:
        return None
    return f"private to {other}; its face is {other}/{other}.h"


def user_complaint(path, what: str, may_python: bool) -> str | None:
    """Return what is wrong with an #include outside src; None if nothing."""
    if what == "<Python.h>" or what.startswith("<numpy/"):
        return None if may_python else "only python/ext may include it"
    if what.startswith("<allcores/"):
        header = ROOT / "include" / what.strip("<>")
        return None if header.is_file() else "there is no such public header"
    if what.startswith("<"):
        return None
    beside = path.parent / what.strip('"')
    if beside.resolve().parent == path.parent.resolve() and beside.is_file():
        return None
    return "only <allcores/…> and headers beside the file may be included"


def complaints(files, complain) -> list[str]:
    return [
        f"{name(path)}:{line}: {what}: {trouble}"
        for path in files
        for line, what in includes(path)
        if (trouble := complain(path, what))
    ]


def test_every_folder_of_src_is_a_known_module():
    modules = {p.relative_to(ROOT / "src").parts[0] for p in c_files("src")}
    assert modules <= set(ARROWS)


def test_includes_under_src_follow_the_arrows():
    found = complaints(c_files("src"), src_complaint)
    assert not found, "\n" + "\n".join(found)


def test_public_headers_include_public_headers_alone():
    found = complaints(c_files("include"), lambda p, w: user_complaint(p, w, False))
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize("folder", ["cli", "examples", "bench", "python"])
def test_what_stands_outside_src_sees_what_a_user_sees(folder):
    def complain(path, what):
        return user_complaint(path, what, folder == "python")

    found = complaints(c_files(folder), complain)
    assert not found, "\n" + "\n".join(found)


def test_every_file_opens_with_a_comment_that_says_what_it_is():
    silent = [
        name(path)
        for path in c_files("src", "include", "cli", "python", "examples", "bench")
        if len(top_comment(path.read_text("utf-8"))) < 10
    ]
    assert not silent, f"no opening block comment: {silent}"


def test_the_rules_see_a_forbidden_include():
    """The checks above are not vacuous."""
    base = ROOT / "src" / "base" / "status.c"
    team = ROOT / "src" / "team" / "team.c"
    assert src_complaint(base, "<Python.h>")
    assert src_complaint(base, '"os/os.h"')
    assert src_complaint(base, "<sys/mman.h>")
    assert src_complaint(base, '"status.h"')
    assert src_complaint(team, '"algo/algo.h"')
    assert src_complaint(team, '"os/os.h"') is None
    assert user_complaint(ROOT / "cli" / "main.c", '"base/status.h"', False)
    assert user_complaint(ROOT / "cli" / "main.c", "<Python.h>", False)
