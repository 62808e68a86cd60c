"""Links in the documentation lead somewhere."""

from __future__ import annotations

import re

from house import name, tracked_files

LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


def test_every_relative_link_leads_to_a_file():
    broken = []
    for page in tracked_files():
        if page.suffix != ".md":
            continue
        text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
        for match in LINK.finditer(text):
            target = (match.group(1) or match.group(2)).partition("#")[0]
            if not target or "://" in target or target.startswith("mailto:"):
                continue
            if not (page.parent / target).exists():
                broken.append(f"{name(page)}: {target}")
    assert not broken, "\n" + "\n".join(broken)
