"""The results page names every benchmark, and every benchmark explains its arguments without running."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = sorted((ROOT / "tests" / "benchmarks").glob("*.py"))
LIBRARY = "trial_families.py"  # imported by trials.py


def test_the_results_page_lists_every_benchmark() -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    _, _, listed = page.partition("## Which benchmarks are there?")
    first_cells = [line.split("|")[1] for line in listed.splitlines() if line.startswith("| `")]
    named = {name for cell in first_cells for name in re.findall(r"`(\w+\.py)`", cell)}
    assert named == {path.name for path in BENCHMARKS}


def test_every_benchmark_parses_arguments_and_shows_its_command() -> None:
    for path in BENCHMARKS:
        source = path.read_text(encoding="utf-8")
        if path.name != LIBRARY:
            assert f"python tests/benchmarks/{path.name}" in (ast.get_docstring(ast.parse(source)) or ""), (
                path
            )
            assert "argparse.ArgumentParser(" in source, path
