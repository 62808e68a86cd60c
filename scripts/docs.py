#!/usr/bin/env python3
"""Build the documentation as HTML in build/site.

Every Markdown page of the tree is taken with its place, so that links between
pages hold as they do in the tree; README.md is the front page. Where links lead
is checked by tests/house.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES, SITE = ROOT / "build" / "pages", ROOT / "build" / "site"
KINDS = {".md", ".png", ".svg"}
CONFIG = """\
site_name: allcores
site_description: All your cores, never more than that
docs_dir: pages
site_dir: site
theme: {name: readthedocs}
"""


def main() -> int:
    shutil.rmtree(PAGES, ignore_errors=True)
    pages = [ROOT / name for name in ("README", "ARCHITECTURE", "CONTRIBUTING")]
    pages = [path.with_suffix(".md") for path in [*pages, ROOT / "CHANGELOG"]]
    pages += [path for path in (ROOT / "docs").rglob("*") if path.suffix in KINDS]
    for page in filter(Path.is_file, pages):
        copy = PAGES / page.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(page, copy)
    config = ROOT / "build" / "mkdocs.yml"
    config.write_text(CONFIG, encoding="utf-8")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "-f", str(config)]
    status = subprocess.run(command, check=False).returncode
    if status == 0:
        print(f"the documentation is in {(SITE / 'index.html').relative_to(ROOT)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
