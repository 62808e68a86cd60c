#!/usr/bin/env python3
"""Run the C tests and the Python tests, and add up their totals.

    test.py --c BUILD_DIR [--no-suite NAME] [--fixed-addresses]
            --python PYTHON [--jobs N] [PATH ...]

Either part may be left out. C tests run by `meson test`, Python tests by pytest
in the interpreter given. Skipped tests are named with their reasons; where CI
is set, a skip that a CI machine can do something about counts as a failure. The
last line is the total: `N passed, N failed`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

TOTALS = re.compile(r"^(\d+) passed, (\d+) failed(?:, \d+ skipped)?$", re.MULTILINE)
SKIPPED = re.compile(r"^skipped: (.*)$", re.MULTILINE)
# What a CI machine is told to install or to build; see .ci/run.
CI_PROVIDES = re.compile(
    r"no C\+\+ compiler|no second C compiler|no C compiler|not built|not installed"
    r"|could not import|no module named",
    re.IGNORECASE,
)


@dataclass
class Totals:
    """What was counted so far."""

    passed: int = 0
    failed: int = 0
    skips: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    def fail(self, trouble: str, count: int = 1) -> None:
        self.failed += count
        self.troubles.append(trouble)


def add_c_test(totals: Totals, record: dict) -> None:
    """Add one program's totals; a program that ends without any is a failure."""
    name, output = record["name"].rpartition(":")[2], record.get("stdout", "")
    found = TOTALS.findall(output)
    for skip in SKIPPED.findall(output):
        totals.skips.append(f"{name}: {skip}")
    if record["result"] == "SKIP":
        totals.skips.append(f"{name}: the whole program")
        return
    passed, failed = map(int, found[-1]) if found else (0, 0)
    totals.passed += passed
    if failed:
        totals.fail(f"{name}: {failed} failed", failed)
    elif record["result"] not in ("OK", "EXPECTEDFAIL"):
        totals.fail(f"{name}: {record['result']}, status {record['returncode']}")
    elif not found:
        totals.passed += 1


def can_fix_addresses() -> bool:
    """Return whether a program can be run without random addresses."""
    if shutil.which("setarch") is None:
        return False
    probe = ["setarch", "-R", "true"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def run_c(totals: Totals, options: argparse.Namespace) -> None:
    meson = Path(sys.executable).with_name("meson")
    log = Path(options.c, "meson-logs", "testlog.json")
    log.unlink(missing_ok=True)
    command = [str(meson), "test", "-C", options.c, "--print-errorlogs"]
    command += ["--num-processes", str(options.jobs)]
    command += ["--timeout-multiplier", str(options.timeout_multiplier)]
    for suite in options.no_suite:
        command += ["--no-suite", suite]
    if options.fixed_addresses and can_fix_addresses():
        command = ["setarch", "-R", *command]  # inherited by the tests
    status = subprocess.run(command, check=False).returncode
    before = totals.failed
    if log.exists():
        for line in log.read_text(encoding="utf-8").splitlines():
            add_c_test(totals, json.loads(line))
    if status != 0 and totals.failed == before:
        totals.fail(f"meson test: status {status}")


def run_python(totals: Totals, options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [options.python, "-m", "pytest", "-q", f"--junitxml={report}"]
        status = subprocess.run(command + options.paths, check=False).returncode
        before = totals.failed
        if report.exists():
            for case in ElementTree.parse(report).iter("testcase"):
                add_python_test(totals, case)
        if status not in (0, 5) and totals.failed == before:
            totals.fail(f"pytest: status {status}")


def add_python_test(totals: Totals, case: ElementTree.Element) -> None:
    name = f"{case.get('classname')}: {case.get('name')}"
    skip = case.find("skipped")
    if case.find("failure") is not None or case.find("error") is not None:
        totals.fail(name)
    elif skip is not None and "xfail" not in skip.get("type", ""):
        totals.skips.append(f"{name}: {skip.get('message')}")
    else:
        totals.passed += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--c", metavar="BUILD_DIR")
    parser.add_argument("--no-suite", action="append", default=[])
    parser.add_argument("--fixed-addresses", action="store_true")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--timeout-multiplier", type=float, default=1)
    parser.add_argument("--python", metavar="PYTHON")
    parser.add_argument("paths", nargs="*")
    options = parser.parse_args()

    totals = Totals()
    if options.c:
        os.environ["ALLCORES_BUILD_DIR"] = os.path.abspath(options.c)
        run_c(totals, options)
    if options.python:
        run_python(totals, options)

    print()
    for skip in totals.skips:
        print(f"skipped: {skip}")
        if os.environ.get("CI") and CI_PROVIDES.search(skip):
            totals.fail(f"skipped, but CI can provide it: {skip}")
    for trouble in totals.troubles:
        print(f"FAILED: {trouble}")
    if totals.passed + totals.failed == 0:
        totals.fail("no test ran")
        print("FAILED: no test ran")
    print(f"{totals.passed} passed, {totals.failed} failed", flush=True)
    return totals.failed != 0


if __name__ == "__main__":
    sys.exit(main())
