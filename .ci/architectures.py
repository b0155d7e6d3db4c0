"""Makes the table of docs/reference/architectures.md: what works with which architecture.

    python .ci/architectures.py [--only bert "llama (language model)"] [--jobs 2] [--again]

Each row is a tiny model with random weights (`tests/architectures`), to which every stage is applied by a
recipe, up to an ONNX file that answers as PyTorch does. A row takes up to a minute of a core.
Rows that `.ci/architectures.json` has are kept, unless named or with `--again`; it is written after each row,
so an interrupted command goes on where it was. Ends with 1 if a cell is a fault: an exception that is no
refusal, or a file that answers otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / ".ci" / "architectures.json"
sys.path.insert(0, str(ROOT))

Cells = dict[str, str]
# What differs between messages of one kind: the stage, the model's class and type.
_OF_ONE = {
    re.compile(r"^(?:(?:prune|quantize|distill)/\w+|student): "): "",
    re.compile(r"\b[A-Z]\w*(?:For[A-Z]\w+|LMHeadModel)\b|^\w+(?=\.structure| has no | does not )"): "MODEL",
    re.compile(r"\bmodel type '[\w-]+'"): "model type 'TYPE'",
}


def main() -> int:
    """Try what is asked for, and write the page."""
    from tests.architectures.families import ENTRIES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(ENTRIES), metavar="NAME", help="rows to make again")
    parser.add_argument("--again", action="store_true", help="make every row again")
    parser.add_argument("--jobs", type=int, default=1, help="rows at a time, each in a process")
    given = parser.parse_args()
    kept = rows()
    names = given.only or [name for name in ENTRIES if given.again or name not in kept]
    began, done = time.perf_counter(), 0
    # Not a ProcessPoolExecutor, which in Python 3.11 may wait forever where processes are replaced.
    with get_context("spawn").Pool(given.jobs, maxtasksperchild=8) as pool:
        for name, cells in pool.imap_unordered(_row, names):
            done += 1
            kept = {**rows(), name: cells}  # read again: another command may be at work
            _keep({known: kept[known] for known in ENTRIES if known in kept})
            left = (time.perf_counter() - began) / done * (len(names) - done)
            print(
                f"{done}/{len(names)} {name}: {_short(kept[name])}; about {left / 60:.0f} min left",
                flush=True,
            )
    subprocess.run([sys.executable, str(ROOT / ".ci" / "docs_reference.py")], check=True)
    faults = {name: found for name, cells in kept.items() if (found := _faults(cells))}
    for name, found in faults.items():
        print(f"{name}: {'; '.join(found)}")
    return int(bool(faults))


def rows() -> dict[str, Cells]:
    """The kept rows: what each column says of an architecture."""
    return json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.is_file() else {}


def _row(name: str) -> tuple[str, Cells]:
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    from tests.architectures.trial import cells

    return name, cells(name, say=lambda line: None)


def _keep(found: dict[str, Cells]) -> None:
    beside = KEPT.with_suffix(".new")
    beside.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    beside.replace(KEPT)


def _faults(cells: Cells) -> list[str]:
    from tests.architectures.trial import FAULT

    return [f"{column}: {said}" for column, said in cells.items() if said.startswith(FAULT)]


def _short(cells: Cells) -> str:
    works = sum(said == "yes" for said in cells.values())
    return f"{works} of {len(cells)} work, {len(_faults(cells))} faults"


def tables() -> str:
    """The tables of the page, one for each kind of model, and their notes."""
    from tests.architectures.families import ENTRIES, KINDS
    from tests.architectures.trial import COLUMNS

    found, notes, parts = rows(), dict[str, int](), []
    for kind in KINDS:
        named = {name: found[name] for name, entry in ENTRIES.items() if entry.kind == kind and name in found}
        if named:
            parts.append(f"## {kind}\n\n{_table(named, COLUMNS, notes)}")
    listed = [f"{number}. {said}" for said, number in notes.items()]
    return "\n\n".join([*parts, "## Why not", "\n".join(listed)])


def _table(named: dict[str, Cells], columns: tuple[str, ...], notes: dict[str, int]) -> str:
    used = [each for each in columns if any(each in cells for cells in named.values())]
    lines = [["", *map(_head, used)], ["---"] * (len(used) + 1)]
    for name, cells in named.items():
        lines.append([f"`{name}`", *(_cell(cells.get(each, "–"), notes) for each in used)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _head(column: str) -> str:
    room, _, name = column.partition("/")
    return f"[{name}](stages.md#{room}{name})" if name else room


def _cell(said: str, notes: dict[str, int]) -> str:
    """`yes`, or the number of the note that says why not."""
    if said in ("yes", "–"):
        return said
    for pattern, instead in _OF_ONE.items():
        said = pattern.sub(instead, said)
    inline = re.sub(r"([*<|_])", r"\\\1", said)
    return f"no ({notes.setdefault(inline, len(notes) + 1)})"


if __name__ == "__main__":
    sys.exit(main())
