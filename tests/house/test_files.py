"""Files are of a size to be read, and speak of the project alone."""

from __future__ import annotations

import re

from house import ROOT, c_files, name, top_comment, tracked_files, without_comments

FILE_LINES, FUNCTION_LINES = 1000, 120
FOLDERS = ("src", "include", "cli", "python", "examples", "bench", "tests")
BINARY = {".png", ".ppm", ".npy", ".gz", ".so", ".pdf", ".ico", ".jpg"}


def functions(text: str) -> list[tuple[str, int, int]]:
    """Return (name, line, lines) for each function body in a C file.

    A body is a brace at depth 0 that closes a parameter list. A heuristic: the
    code is clang-format's, so an odd macro may hide a function, not invent one.
    """
    code = re.sub(
        r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*",
        _blank,
        without_comments(text),
        flags=re.MULTILINE,
    )
    code = re.sub(r'extern ""\s*\{', "", code)
    found, depth, head_start, start = [], 0, 0, None
    for match in re.finditer(r"[{};]", code):
        at, char = match.start(), match.group()
        if char == "{":
            if depth == 0:
                head = code[head_start:at]
                named = re.search(r"\b(\w+)\s*\([^=]*\)\s*$", head, re.DOTALL)
                start = (named.group(1), at) if named else None
            depth += 1
        elif char == "}" and depth > 0:
            depth -= 1
            if depth == 0 and start is not None:
                line = code.count("\n", 0, start[1]) + 1
                found.append((start[0], line, code.count("\n", start[1], at) + 1))
        if depth == 0:
            head_start = at + 1
    return found


def _blank(match: re.Match[str]) -> str:
    return "\n" * match.group().count("\n")


def excused(text: str) -> bool:
    """Return whether the opening comment gives a reason for the length."""
    return bool(re.search(r"\blong\b|\blength\b", top_comment(text), re.IGNORECASE))


def test_no_file_is_over_a_thousand_lines_without_a_reason():
    too_long = []
    for path in c_files(*FOLDERS):
        text = path.read_text("utf-8")
        if text.count("\n") > FILE_LINES and not excused(text):
            too_long.append(f"{name(path)}: {text.count(chr(10))} lines")
    assert not too_long, "no reason in the top comment: " + "; ".join(too_long)


def test_no_function_is_over_120_lines_without_a_reason():
    too_long = []
    for path in c_files(*FOLDERS):
        text = path.read_text("utf-8")
        for function, line, lines in functions(text):
            if lines > FUNCTION_LINES and not excused(text):
                too_long.append(f"{name(path)}:{line}: {function}(): {lines} lines")
    assert not too_long, "no reason in the top comment: " + "; ".join(too_long)


def test_functions_are_found_and_measured():
    text = "/* f() { */\nstatic int f(int a,\n  int b) {\n  if (a) {\n  }\n}\n"
    text += "int t[] = {1, 2};\nstruct s {\n  int (*f)(int);\n};\n"
    text += 'int g(void) { return "{"[0]; }\n'
    assert functions(text) == [("f", 3, 4), ("g", 11, 1)]


def test_nothing_names_a_path_of_somebodys_machine():
    # Written apart, so that this file does not name them itself.
    words = [r"(?<![\w.])/" + top + r"\b" for top in ("work", "root")]
    words += ["/" + "home/", r"\." + "pyenv", "/" + "opt/wheels"]
    forbidden = re.compile("|".join(words))
    found = []
    for path in tracked_files():
        if path.suffix in BINARY:
            continue
        text = path.read_text("utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            if forbidden.search(line):
                found.append(f"{name(path)}:{number}: {line.strip()[:80]}")
    assert not found, "\n" + "\n".join(found)


def test_one_version_stands_everywhere():
    build = (ROOT / "meson.build").read_text("utf-8")
    version = re.search(r"version: '([\d.]+)'", build).group(1)
    status = (ROOT / "src" / "base" / "status.c").read_text("utf-8")
    assert f'"{version}"' in status
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text("utf-8")
