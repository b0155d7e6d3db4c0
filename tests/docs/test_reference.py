"""The generated parts of the reference are up to date, and its example works."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from compress import Context, HeadPruning, Int8Dynamic, LayerPruning, WidthPruning
from compress.model import Definition, structure_of
from compress.model.structure.layouts import Attention, FeedForward
from compress.model.structure.sites import Coupled
from compress.recipe.describe import meanings_of
from compress.registry import STAGES

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"


def _module(name: str) -> ModuleType:
    """A script in .ci."""
    specification = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    return _module("docs_reference")


def test_the_generated_parts_are_what_the_code_says(generator: ModuleType) -> None:
    stale = [
        path.name
        for path, text in generator.regenerated().items()
        if path.read_text(encoding="utf-8") != text
    ]
    assert stale == [], "run `python .ci/docs_reference.py` and commit the pages"


def test_every_part_is_on_a_page(generator: ModuleType) -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in REFERENCE.glob("*.md"))
    assert sorted(re.findall(r"<!-- generated: ([\w-]+) -->", pages)) == sorted(generator.PARTS)


def test_every_key_of_a_recipe_and_field_of_a_report_has_a_meaning() -> None:
    empty = [
        f"{path.name}: {line}"
        for path in REFERENCE.glob("*.md")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"\|\s+\|$", line)
    ]
    assert empty == []


def test_every_stage_has_a_row_that_says_what_to_expect() -> None:
    page = (REFERENCE / "stages.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[`([\w/]+)`\]\(#\w+\) \| .+ \| .+ \|$", page, re.M)
    assert sorted(rows) == sorted(STAGES)


def test_the_meaning_of_a_key_is_read_from_docstrings_of_the_class_and_its_bases() -> None:
    meanings = meanings_of(Int8Dynamic)
    assert meanings["skip"].startswith("patterns of layer names to leave float")  # of the base class
    assert meanings["activations"].startswith("token: one scale per token.")
    assert "unit" not in meanings


def test_the_example_of_a_structure_can_be_cut_everywhere(tmp_path: Path, context: Context) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", (REFERENCE / "structure.md").read_text(), re.M | re.S)
    (tmp_path / "my_model.py").write_text(block, encoding="utf-8")
    model = Definition.from_file(tmp_path / "my_model.py", "MyModel", {"layers": 2}).build(seed=0).eval()
    structure = structure_of(model)
    assert [site.units(model) for site in structure.attention] == [4, 4]
    assert [site.units(model) for site in structure.feed_forward] == [64, 64]
    for stage in (HeadPruning(sparsity=0.5), LayerPruning(layers=1), WidthPruning(width=16)):
        made = stage.apply(model, context).model
        assert sum(x.numel() for x in made.parameters()) < sum(x.numel() for x in model.parameters())
        assert made(torch.zeros(2, 5, 4)).shape == (2, 3)


def test_the_page_of_structures_names_every_key() -> None:
    page = (REFERENCE / "structure.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", page))
    for kind in (Attention, FeedForward, Coupled):
        assert set(kind.__dataclass_fields__) <= named


def _shown(markdown: str, page: str) -> str:
    """What the hook makes of a page's Markdown."""
    pytest.importorskip("mkdocs", reason="the docs extra is not installed")
    file = SimpleNamespace(src_uri=page)
    shown = _module("docs_site").on_page_markdown(markdown, SimpleNamespace(file=file))
    assert isinstance(shown, str)
    return shown


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("[a](../recipes/digits/joint.yaml)", "[a](repository/recipes/digits/joint.yaml)"),
        ("[`a` b](../models/cnn.py)", "[`a` b](repository/models/cnn.py)"),
        ("`a` [b](../models/cnn.py) `c`", "`a` [b](repository/models/cnn.py) `c`"),
        ("[a](../README.md)", "[a](index.md)"),
        ("[a](../CONTRIBUTING.md#style)", "[a](contributing.md#style)"),
        ("[a](reference/gates.md#x)", "[a](reference/gates.md#x)"),
        ("[recipes](../recipes)", "recipes"),
        ("[a](https://example.org)", "[a](https://example.org)"),
        ("[a](../no-such-file.py)", "[a](../no-such-file.py)"),
        ("`[a](../recipes)`", "`[a](../recipes)`"),
    ],
)
def test_links_that_leave_docs_are_changed_for_the_site(written: str, shown: str) -> None:
    assert _shown(written, "faq.md") == shown


def test_links_of_pages_from_outside_of_docs_are_relative_to_the_repository() -> None:
    assert _shown("[a](docs/extending.md)", "contributing.md") == "[a](extending.md)"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the docs extra is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "reference" / "structure" / "index.html").read_text(encoding="utf-8")
    assert "repository/models/cnn.py" in page
    assert (tmp_path / "site" / "repository" / "models" / "cnn.py").is_file()
    loaded = [
        f"{path.name}: {found}"
        for path in (tmp_path / "site").rglob("*.html")
        for found in re.findall(r"(?:src|href)=\"?(https?://[^\"\s>]+)", path.read_text(encoding="utf-8"))
        if not found.startswith("https://squidfunk.github.io")  # the theme's own credit
    ]
    assert not [each for each in loaded if re.search(r"\.(js|css|woff2?)$|fonts\.", each)], (
        "loaded from the network"
    )
