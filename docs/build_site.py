#!/usr/bin/python3
"""Makes a static site of the repository's Markdown, and fails if a link in it leads nowhere.

    docs/build_site.py [FOLDER]      build/site unless given; what is there is replaced

Pages keep their places in the tree, so links work in the site as they do in a checkout. Sources and folders that pages link to
are parts of the site. Nothing comes from another server.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

REPOSITORY = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.DOTALL | re.MULTILINE)


def tracked(*patterns: str) -> list[Path]:
    """Files of the repository, those included that are not committed yet."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "--", *patterns]
    names = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.splitlines()
    return sorted(REPOSITORY / name for name in names if (REPOSITORY / name).is_file())


def copy(source: Path, pages: Path) -> None:
    target = pages / source.relative_to(REPOSITORY)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def stage(pages: Path) -> None:
    """Copies what the site is made of."""
    markdown = tracked("*.md")
    for page in markdown:
        copy(page, pages)
        for link in LINK.findall(CODE.sub("", page.read_text())):
            path = unquote(urlsplit(link).path)
            linked = (page.parent / path).resolve()
            if not path or urlsplit(link).scheme or not linked.is_relative_to(REPOSITORY):
                continue
            inside = tracked(str(linked))
            for file in inside:
                copy(file, pages)
            if inside and linked.is_dir() and linked / "README.md" not in inside:
                # Its page: what is in it.
                place = linked.relative_to(REPOSITORY)
                names = [str(file.relative_to(linked)) for file in inside]
                listing = "".join(f"- [{name}]({name})\n" for name in names)
                (pages / place / "index.md").write_text(f"# {place}\n\n{listing}")


class Links(HTMLParser):
    """What an HTML page links to, what it loads, and the anchors that it has."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors = {""}
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                (self.links if tag == "a" else self.loaded).append(value)


def broken_links(site: Path) -> list[str]:
    """One line for each link that leads nowhere, and for each thing that would be loaded from elsewhere."""
    pages = {page: Links(page) for page in sorted(site.rglob("*.html")) if page.name != "404.html"}
    problems = []
    for page, found in pages.items():
        name = page.relative_to(site)
        problems += [f"{name}: loads {url}" for url in found.loaded if urlsplit(url).netloc]
        for url in found.links + found.loaded:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                problems.append(f"{name}: {url} is not there")
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                problems.append(f"{name}: {url} is no heading there")
    return problems


def main() -> int:
    if len(sys.argv) > 2 or sys.argv[1:2] and sys.argv[1].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    site = Path(sys.argv[1] if sys.argv[1:] else REPOSITORY / "build/site").resolve()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(REPOSITORY / "docs/mkdocs.yml", Path(folder, "mkdocs.yml"))
        stage(Path(folder, "pages"))
        command = ["mkdocs", "build", "--strict", "--clean", "--config-file", f"{folder}/mkdocs.yml",
                   "--site-dir", str(site)]
        built = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if built.returncode:
            print(built.stdout, file=sys.stderr)
            return 1
    problems = broken_links(site)
    for problem in problems:
        print(f"build_site: {problem}", file=sys.stderr)
    if not problems:
        print(f"build_site: {site}/docs/index.html")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
