"""Sentences with tags that a tiny model can learn: what a word is, and sometimes the word before."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ..hf_families import WORDS

TAGS = ("O", "B-FILM", "I-FILM", "B-MOOD")


def tag_of(word: str, before: str) -> str:
    if word in ("film", "plot"):
        return "B-FILM"
    if word == "was" and before in ("film", "plot"):
        return "I-FILM"
    return "B-MOOD" if word in ("good", "bad", "fine", "poor") else "O"


def sentences(count: int, *, longest: int = 10, seed: int = 0) -> list[tuple[list[str], list[str]]]:
    """Different sentences, each a list of words and one of tags."""
    draw, found = np.random.default_rng(seed), {}
    while len(found) < count:
        words = [str(word) for word in draw.choice(WORDS, int(draw.integers(3, longest + 1)))]
        found[" ".join(words)] = words
    return [
        (words, [tag_of(word, before) for word, before in zip(words, ["", *words], strict=False)])
        for words in found.values()
    ]


def write_sentences(path: Path, rows: list[tuple[list[str], list[str]]]) -> Path:
    lines = (json.dumps({"words": words, "tags": tags}) for words, tags in rows)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path
