"""Real addresses with 23 types of parts as CoNLL files, for the figures of docs/how-to/token-labels.md.

The source archive of usaddress 0.5.16 (MIT) has them. Hand-labelled addresses are in validation, test and,
together with easy ones, train; types with fewer than 20 words are left out.

    python tests/benchmarks/addresses.py usaddress-0.5.16 DIR
    modelpress run recipes/token-labels/quantize-int8.yaml model.hf=ENCODER \\
        'model.train={epochs: 6, batch_size: 16, learning_rate: 3.0e-4}' data.max_length=64 \\
        data.train=DIR/train.conll data.validation=DIR/validation.conll data.test=DIR/test.conll
"""

from __future__ import annotations

import argparse
import random
import re
from collections import Counter
from pathlib import Path

TEST, VALIDATION, EASY = 500, 200, 450
LEAST = 20  # words of a type

Sentence = tuple[list[str], list[str]]


def sentences(path: Path) -> list[Sentence]:
    """Different addresses of a file, with a tag for each word."""
    found: dict[str, Sentence] = {}
    for address in re.findall(r"<AddressString>(.*?)</AddressString>", path.read_text("utf-8"), re.DOTALL):
        words, tags, before = [], [], ""
        for kind, part in re.findall(r"<(\w+)>([^<]*)</\1>", address):
            for word in part.split():
                words.append(word)
                tags.append("O" if kind == "Null" else f"{'I' if kind == before else 'B'}-{kind}")
                before = kind
        if words:
            found.setdefault(" ".join(words).lower(), (words, tags))
    return list(found.values())


def main(source: Path, target: Path) -> None:
    """Write train.conll, validation.conll and test.conll."""
    easy = sentences(source / "training" / "openaddress_us_ia_linn.xml")
    hard = sentences(source / "training" / "labeled.xml")
    draw = random.Random(0)
    draw.shuffle(hard)
    counts = Counter(tag[2:] for _, tags in hard for tag in tags)
    hard = [row for row in hard if all(counts[tag[2:]] >= LEAST for tag in row[1])]
    draw.shuffle(easy)
    parts = {
        "test": hard[:TEST],
        "validation": hard[TEST : TEST + VALIDATION],
        "train": hard[TEST + VALIDATION :] + easy[:EASY],
    }
    target.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        blocks = ("\n".join(map(" ".join, zip(*row, strict=True))) for row in rows)
        (target / f"{name}.conll").write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="the unpacked source archive")
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    main(arguments.source, arguments.output)
