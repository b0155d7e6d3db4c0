"""Nothing outside `compress/tasks` names a task or branches on the shape of its answers."""

from __future__ import annotations

import re
from pathlib import Path

import compress
from compress.tasks import TASKS

PACKAGE = Path(compress.__file__).parent

OTHER_MEANINGS = {"embedding"}  # also a kind of module and a loss: found where a task or head is asked
NAMES = [
    *(rf"[\"']{re.escape(name)}[\"']" for name in TASKS if name not in OTHER_MEANINGS),
    *(rf"\b(task|kind|head)\w*\b.{{0,20}}[\"']{name}[\"']" for name in OTHER_MEANINGS),
    *(rf"\b{target.partition(':')[2]}\b" for target in TASKS.values()),
]
SHAPES = [
    r"\btask\.(vocabulary|name ==|name !=)",
    r"\.task (==|!=) ",
    r"isinstance\([^)]*\btask\b",
    r"\b(logits|answers?|labels|answered|truth)\.ndim (==|!=)",
    r"\blen\((logits|answers?|labels)\.shape\)",
    r"positions (>|==|!=) 1\b",
    r"\bunit (==|!=) [\"']",
    r"\bargmax\(",
    r"\bis_language|\b_LANGUAGE\b|measurement\.language is",
]

ALLOWED = {
    "deploy/generate.py": "picks the next token: it is the program that writes",
    "measure/accuracy.py": "the row of the first NaN",
    "pipeline/inspection/attention.py": "where a head looks",
    # Perplexity as a second way to rank, and the section on writing tokens: the report's own figures.
    "report/compare/read.py": "a report's perplexity columns",
    "report/sections/language.py": "the section on perplexity and on writing tokens",
}


def _found() -> dict[str, list[str]]:
    pattern = re.compile("|".join([*NAMES, *SHAPES]))
    found: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name.startswith("tasks/"):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if pattern.search(line):
                found.setdefault(name, []).append(f"{number}: {line.strip()}")
    return found


def test_no_other_file_names_a_task_or_branches_on_its_shape() -> None:
    assert {name: lines for name, lines in _found().items() if name not in ALLOWED} == {}


def test_a_line_that_asks_is_found() -> None:
    pattern = re.compile("|".join([*NAMES, *SHAPES]))
    asking = ('if task.name == "x":', 'if kind.name in ("embedding",):', "if logits.ndim == 3:")
    for line in (*asking, "from compress.tasks import Classification"):
        assert pattern.search(line), line
