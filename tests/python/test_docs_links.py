"""Every relative link in the documentation leads to a file, and to a heading of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from conftest import REPOSITORY

PAGES = sorted({path for pattern in ("*.md", "client/**/*.md", "docs/**/*.md", "deploy/**/*.md", "tests/**/*.md")
                for path in REPOSITORY.glob(pattern)})
FENCED = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)")
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|^ *\[[^\]]+\]:\s+(\S+)", re.MULTILINE)
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Names of the page's headings, as GitHub and GitLab make them, and those that it gives itself."""
    text = FENCED.sub("", page.read_text())
    names = set(re.findall(r'<a id="([^"]+)">', text))
    for heading in HEADING.findall(text):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        repeated = sum(1 for name in names if re.fullmatch(re.escape(slug) + r"(-\d+)?", name))
        names.add(f"{slug}-{repeated}" if repeated else slug)
    return names


def links(page: Path) -> list[str]:
    text = CODE.sub("", FENCED.sub("", page.read_text()))
    return [inline or reference for inline, reference in LINK.findall(text)
            if not re.match(r"[a-z]+:", inline or reference)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links(page: Path) -> None:
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_links_are_found() -> None:
    found = links(REPOSITORY / "README.md")
    assert {"docs/state.md", "docs/operations.md#open-inference-protocol", "proto/normd/v1"} <= set(found)
