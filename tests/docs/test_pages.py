"""Pages of README and docs: their length, their links, their recipes, and their place in the navigation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from compress.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "README")),
]
MOST_LINES = {"README.md": 250}
A_RECIPE = re.compile(r"model:|# [\w./-]+\.ya?ml\b")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def _anchors(text: str) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", _without_code(text), flags=re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w -]", "", plain.strip().lower()).replace(" ", "-")
        found.add(anchor)
    return found


def _nav(entry: object) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, dict):
        for each in entry.values():
            yield from _nav(each)
    elif isinstance(entry, list):
        for each in entry:
            yield from _nav(each)


def test_every_page_is_in_the_navigation_once() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = [
        path.relative_to(ROOT / "docs").as_posix() for path in PAGES if path.is_relative_to(ROOT / "docs")
    ]
    assert sorted(_nav(settings["nav"])) == sorted([*pages, "changelog.md", "contributing.md"])


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_a_page_is_short_enough_to_read(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES.get(path.name, 400)


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(text)):
        place, _, anchor = target.partition("#")
        file = (path.parent / place).resolve() if place else path
        if re.match(r"[a-z]+:", target):
            continue
        found = file.exists() and file.is_relative_to(ROOT)
        if not found or (anchor and anchor not in _anchors(file.read_text(encoding="utf-8"))):
            dead.append(target)
    assert dead == []


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_the_recipes_of_a_page_load(path: Path, tmp_path: Path) -> None:
    (tmp_path / "recipes" / "digits").mkdir(parents=True)
    for number, block in enumerate(_blocks(path.read_text(encoding="utf-8"), "yaml")):
        if A_RECIPE.match(block):
            file = tmp_path / "recipes" / "digits" / f"{number}.yaml"
            file.write_text(block, encoding="utf-8")
            assert load_recipe(file).stages, block
