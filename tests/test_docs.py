"""The pages: what code and pages point to is there."""

import re
import subprocess
from pathlib import Path

import pytest

from crashchat.config import ROOT

FILES = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
).stdout.split()
PAGES = [name for name in FILES if name.endswith(".md")]


def headings(page: Path) -> set[str]:
    return set(re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE))


def test_every_reference_to_the_reference_names_one_of_its_sections():
    sections, found = headings(ROOT / "docs" / "reference.md"), 0
    for name in FILES:
        if name.endswith((".py", ".yaml", ".sh")) and name != "tests/test_docs.py":
            for named in re.findall(
                r"docs/reference\.md, ([A-Z][a-z]+(?: results)?)", (ROOT / name).read_text()
            ):
                assert named in sections, (
                    f"{name} names the section {named!r}; docs/reference.md has {sorted(sections)}"
                )
                found += 1
    assert found > 20


@pytest.mark.parametrize("name", PAGES)
def test_links_of_pages_lead_somewhere(name):
    page = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            path, _, anchor = target.partition("#")
            linked = (page.parent / path).resolve() if path else page
            assert linked.exists(), f"{name} links to {target}"
            if anchor:
                anchors = {
                    re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings(linked)
                }
                assert anchor in anchors, f"{name} links to {target}; that page has {sorted(anchors)}"


@pytest.mark.parametrize("name", PAGES)
def test_files_that_pages_name_are_there(name):
    made = ("outputs/", "data/", "ckpt/videollama3", "ckpt/crashchat", "ckpt/for", "ckpt/released", "docs/")
    words = re.findall(
        r"(?:python|bash) ((?:scripts|tool|benchmarks)/[\w./<>{},-]+)",
        (ROOT / name).read_text(encoding="utf-8"),
    )
    for word in words:
        if "<" not in word and "{" not in word and not word.startswith(made):
            assert (ROOT / word.rstrip(".,")).is_file(), f"{name} names {word}"
