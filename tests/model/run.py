#!/usr/bin/env python3
"""Model-check the team's protocol: the code passes all scenarios, no mutant does.

    run.py [--cc CC] [--all] [--keep DIR] [WORD ...]

WORDs choose the scenarios and mutants whose names hold one of them. --all adds
the scenarios that take a minute each. --keep leaves what is built in DIR, where

    DIR/scenarios NAME tso|weak trace

prints the steps that lead to a failure. See README.md. The last line is the
total: `N passed, N failed`.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from mutants import MUTANTS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

# (file, text, times, replacement): what the model needs.
REWRITES = [
    # Smaller: one round of each spin, a ring that wraps.
    ("team/worker.c", "LOOK_ROUNDS = 64,", 1, "LOOK_ROUNDS = 1,"),
    ("team/await.c", "SPIN_ROUNDS = 32,", 1, "SPIN_ROUNDS = 1,"),
    ("team/team.h", "AC__PAUSES = 100 }", 1, "AC__PAUSES = 0 }"),
    ("allcores/spawn.h", "AC__DEQUE_SIZE = 1024 }", 1, "AC__DEQUE_SIZE = 2 }"),
    # Plain reads by the owner of what it stores atomically.
    (
        "allcores/spawn.h",
        "int64_t bottom = w->bottom",
        2,
        "int64_t bottom = __atomic_load_n(&w->bottom, __ATOMIC_RELAXED)",
    ),
    (
        "team/worker.c",
        "if (head->bottom >= head->limit)",
        1,
        "if (__atomic_load_n(&head->bottom, __ATOMIC_RELAXED) >= head->limit)",
    ),
    (
        "team/strand.c",
        "thief->head.bottom",
        1,
        "__atomic_load_n(&thief->head.bottom, __ATOMIC_RELAXED)",
    ),
    # The worker's spin lasts; await.c's does not.
    ("team/worker.c", "SPIN_SHORT_NS = 20000,", 1, "SPIN_SHORT_NS = 2000000000,"),
    (
        "team/worker.c",
        "for (uint32_t round = 1;; round++) {",
        1,
        "for (uint32_t round = 1;;) {",
    ),
    (
        "team/worker.c",
        "idle_result result = sleep_parked(self, FOR_GOOD);",
        1,
        "idle_result result = sleep_parked(self, (slumber)first_slumber(self));",
    ),
    ("algo/loop.c", "PARTS_FEW = 16,", 1, "PARTS_FEW = 2,"),
    ("algo/loop.c", "PATIENCE = 32, ", 1, "PATIENCE = 1, "),
    # One file is compiled of all: names that strand.c has too.
    ("algo/loop.c", "static bool is_over(", 1, "static bool loop_is_over("),
    ("algo/loop.c", "static bool help(", 1, "static bool loop_help("),
    ("algo/loop.c", "static bool ask(", 1, "static bool loop_ask("),
    ("algo/loop.c", "static bool goes_on(", 1, "static bool loop_goes_on("),
    ("algo/loop.c", "if (!goes_on(", 1, "if (!loop_goes_on("),
    (
        "algo/loop.c",
        ".is_over = is_over, .help = help, .ask = ask,",
        1,
        ".is_over = loop_is_over, .help = loop_help, .ask = loop_ask,",
    ),
    # A field of the mail, so that a message that is not there yet is seen.
    (
        "team/worker.c",
        "mail->begin = piece->range.begin;",
        1,
        "__atomic_store_n(&mail->begin, piece->range.begin, __ATOMIC_RELAXED);",
    ),
    (
        "team/worker.c",
        ".range = {self->mail.begin, self->mail.end},",
        1,
        ".range = {__atomic_load_n(&self->mail.begin, __ATOMIC_RELAXED), "
        "self->mail.end},",
    ),
    (
        "team/lane.c",
        "WRITE(lane->begin, piece->range.begin);",
        1,
        "__atomic_store_n(&lane->begin, piece->range.begin, __ATOMIC_RELAXED);",
    ),
    (
        "team/lane.c",
        ".range = {lane->begin, lane->end},",
        1,
        ".range = {__atomic_load_n(&lane->begin, __ATOMIC_RELAXED), lane->end},",
    ),
]


def sources() -> dict[str, str]:
    """Return the text of the files to rewrite, by their names for #include."""
    texts = {}
    for name in sorted({file for file, *_ in REWRITES} | {m.file for m in MUTANTS}):
        folder = "include" if name.startswith("allcores/") else "src"
        texts[name] = (ROOT / folder / name).read_text("utf-8")
    for name, old, times, new in REWRITES:
        if texts[name].count(old) != times:
            raise SystemExit(f"run.py: {name} has changed: not {times} times: {old}")
        texts[name] = texts[name].replace(old, new)
    return texts


class Model:
    """The scenarios, compiled with the sources as they are in a folder."""

    def __init__(self, folder: Path, compiler: list[str]):
        self.folder, self.compiler = folder, compiler
        self.texts = sources()
        for name, text in self.texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, "utf-8")
        self._compile(["-O2", "-c", str(HERE / "engine.c")], "engine.o")

    def _compile(self, arguments: list[str], output: str) -> None:
        command = [*self.compiler, "-std=gnu17", "-D_DEFAULT_SOURCE", "-w"]
        command += [*arguments, "-o", str(self.folder / output)]
        subprocess.run(command, check=True)

    def build(self, output: str) -> None:
        folders = [HERE, HERE / "shim", self.folder, ROOT / "src", ROOT / "include"]
        arguments = ["-O1", "-include", str(HERE / "shim" / "stdatomic.h")]
        arguments += [f"-I{folder}" for folder in folders]
        arguments += [str(HERE / "scenarios.c"), str(self.folder / "engine.o")]
        self._compile(arguments, output)

    def build_mutant(self, mutant) -> str:
        """Return what is wrong with the mutant; "" if it is built."""
        text = self.texts[mutant.file]
        if text.count(mutant.old) != 1:
            return f"{mutant.file} has changed: {mutant.old.strip()}"
        path = self.folder / mutant.file
        path.write_text(text.replace(mutant.old, mutant.new), "utf-8")
        try:
            self.build("mutant")
        except subprocess.CalledProcessError:
            return "it does not compile"
        finally:
            path.write_text(text, "utf-8")
        return ""

    def run(self, program: str, *arguments: str) -> tuple[int, str]:
        command = [str(self.folder / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, (done.stdout + done.stderr).strip()


def check_scenarios(model: Model, is_chosen, with_huge: bool) -> list[bool]:
    """Explore the code as it is: every scenario is to pass."""
    verdicts = []
    model.build("scenarios")
    for line in model.run("scenarios")[1].splitlines():
        name, size = line.split()
        if not is_chosen(name) or (size == "huge" and not with_huge):
            continue
        # Whatever can happen under tso can happen under weak.
        for memory in ["tso", "weak"] if size == "small" else ["weak"]:
            status, said = model.run("scenarios", name, memory)
            verdicts.append(status == 0)
            print("ok  " if status == 0 else "FAIL", said, flush=True)
    return verdicts


def check_mutants(model: Model, is_chosen) -> list[bool]:
    """Explore each mutant: the scenario named is to fail."""
    verdicts = []
    for mutant in MUTANTS:
        if not is_chosen(mutant.name):
            continue
        trouble = model.build_mutant(mutant)
        if not trouble:
            status, said = model.run("mutant", mutant.scenario, mutant.memory)
            trouble = "" if status == 1 else f"not noticed: {said}"
        verdicts.append(not trouble)
        print(
            "FAIL" if trouble else "ok  ",
            f"mutant: {mutant.name} {trouble}",
            flush=True,
        )
    return verdicts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cc", default=os.environ.get("CC", "cc"))
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("words", nargs="*")
    options = parser.parse_args()

    def is_chosen(name: str) -> bool:
        return not options.words or any(word in name for word in options.words)

    if platform.machine() not in ("x86_64", "aarch64"):
        print(f"skipped: the checker does not switch stacks on {platform.machine()}")
        print("0 passed, 0 failed")
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        model = Model(folder, shlex.split(options.cc))
        verdicts = check_scenarios(model, is_chosen, options.all)
        verdicts += check_mutants(model, is_chosen)
    print(f"{sum(verdicts)} passed, {verdicts.count(False)} failed")
    return not all(verdicts)


if __name__ == "__main__":
    sys.exit(main())
