#!/usr/bin/env python3
"""Run the benchmarks and print how they stand to their goals.

    bench/run.py [--build DIRECTORY] [--rounds N] [--costs] [T1 P4 …]

Prints a table, marks what falls short, and writes bench/results/latest.json, or
bench/results/partial.json if only some rows ran. Exits with 1 if a side failed
or gave a wrong answer, with 2 if nothing could be run; a missed goal is not an
error.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from compare import build, machine, pools, team  # noqa: E402
from compare.players import PlayerError  # noqa: E402
from compare.stage import Stage  # noqa: E402
from compare.table import Row, to_text  # noqa: E402

RESULTS = Path(__file__).resolve().parent / "results"
GROUPS = team.GROUPS | pools.GROUPS


def parse(words: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("ids", nargs="*", metavar="ID", help=" ".join(GROUPS))
    parser.add_argument(
        "--build",
        type=Path,
        default=build.ROOT / "build" / "release",
        help="meson build directory with the library (build/release)",
    )
    parser.add_argument("--rounds", type=int, help="rounds of every match")
    parser.add_argument(
        "--costs", action="store_true", help="print what single calls cost instead"
    )
    options = parser.parse_args(words)
    unknown = [id for id in options.ids if id not in GROUPS]
    if unknown:
        parser.error(f"no such rows: {' '.join(unknown)}; there are {' '.join(GROUPS)}")
    return options


def play(ids: list[str], workshop: build.Workshop, rounds: int | None) -> list[Row]:
    """Play the groups; a group that fails ends with a row that says why."""
    rows: list[Row] = []
    for id in ids:
        print(f"{id} …", file=sys.stderr, flush=True)
        try:
            with Stage(workshop, rounds) as stage:
                for row in GROUPS[id](stage):
                    rows.append(row)
        except build.Missing as reason:
            rows.append(Row(id=id, work="not run", note=str(reason)))
        except PlayerError as reason:
            rows.append(Row(id=id, work="failed", holds=False, note=str(reason)))
    return rows


def versions_of(workshop: build.Workshop) -> dict[str, object]:
    """Return all versions, the peers' too; without peers, say why."""
    try:
        return workshop.versions() | build.install_peers()
    except build.Missing as reason:
        return workshop.versions() | {"peers": str(reason)}


def write(report: dict[str, object], is_whole: bool) -> Path:
    """Write the report as JSON; return where."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / ("latest.json" if is_whole else "partial.json")
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return path


def main(words: list[str]) -> int:
    """Run, print, write."""
    options = parse(words)
    try:
        workshop = build.Workshop(options.build.resolve())
        if options.costs:
            return subprocess.run([workshop.program("costs_ac")]).returncode
        versions = versions_of(workshop)
    except build.Missing as reason:
        print(f"bench: {reason}", file=sys.stderr)
        return 2
    ids = options.ids or list(GROUPS)
    report: dict[str, object] = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat("T", "seconds"),
        "machine": machine.describe(),
        "versions": versions,
    }
    rows = play(ids, workshop, options.rounds)
    for name, value in report.items():
        print(f"{name}: {value}")
    print(to_text(rows))
    judged = [row for row in rows if row.holds is not None]
    held = sum(bool(row.holds) for row in judged)
    disturbed = sum(row.is_disturbed for row in judged)
    print(f"{held} of {len(judged)} goals hold; {disturbed} were disturbed by others")
    report["rows"] = [row.to_json() for row in rows]
    is_whole = not options.ids and options.rounds is None
    print(f"written to {write(report, is_whole).relative_to(build.ROOT)}")
    return int(any(row.work == "failed" for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
