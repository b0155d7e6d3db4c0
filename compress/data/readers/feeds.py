"""How a deployed program makes a model's inputs: lines of a program, by the names of the inputs.

The program has no modelpress: texts need the tokenizers library, images Pillow.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from compress.data.readers.image_processor import PIXELS, PREPROCESSOR_FILE

__all__ = ["Feed", "feed_of"]

# Attribute of the tokenizer's encoding for each of the Hub's input names.
_ENCODING = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
_IMAGE = f"""\
settings = json.loads(Path("{PREPROCESSOR_FILE}").read_text())
channels, height, width = session.get_inputs()[0].shape[1:]
image = ImageOps.exif_transpose(Image.open("image.png")).convert("L" if channels == 1 else "RGB")
if settings["do_resize"]:
    size, short = settings["size"], min(image.size)
    edge = size.get("shortest_edge")
    wanted = [edge * side // short for side in image.size] if edge else [size["width"], size["height"]]
    image = image.resize(wanted, settings["resample"])
left, top = (image.width - width) // 2, (image.height - height) // 2
image = image.crop((left, top, left + width, top + height))
pixels = np.atleast_3d(np.asarray(image, dtype=np.float32)) * settings["rescale_factor"]
if settings["do_normalize"]:
    pixels = (pixels - settings["image_mean"]) / settings["image_std"]
feed = {{"{PIXELS}": pixels.transpose(2, 0, 1)[None].astype(np.float32)}}
"""


@dataclass(frozen=True)
class Feed:
    """Parts of a program that has a `session`, and numpy as `np`.

    Attributes:
        modality: text, image or numbers.
        packages: packages besides numpy and onnxruntime.
        standard: import lines of the standard library.
        imports: import lines of the packages.
        lines: lines that assign `feed`, the inputs of one row.
    """

    modality: str
    packages: tuple[str, ...]
    standard: tuple[str, ...]
    imports: tuple[str, ...]
    lines: tuple[str, ...]


def feed_of(
    inputs: Sequence[str], max_length: int | None = None, texts: int = 1, *, of_words: bool = False
) -> Feed:
    """The feed for these inputs.

    Args:
        inputs: names of the ONNX model's inputs.
        max_length: tokens at which texts are truncated, of a pair the longer one first; None: not at all.
        texts: texts of a row, 1 or 2.
        of_words: texts are lists of words.
    """
    if "input_ids" in inputs and set(inputs) <= _ENCODING.keys():
        imports = ("from tokenizers import Tokenizer",)
        return Feed("text", ("tokenizers",), (), imports, _text(inputs, max_length, texts, of_words))
    if list(inputs) == [PIXELS]:
        standard = ("import json", "from pathlib import Path")
        imports = ("from PIL import Image, ImageOps",)
        return Feed("image", ("pillow",), standard, imports, tuple(_IMAGE.splitlines()))
    return Feed("numbers", (), (), (), _numbers(inputs))


def _text(inputs: Sequence[str], max_length: int | None, texts: int, of_words: bool) -> tuple[str, ...]:
    row = '"Put the text here."' if texts == 1 else '"Put the first text here.", "Put the second here."'
    given = [f"encoding = tokenizer.encode({row})"]
    if of_words:
        given = [
            'words = "Put the words here , with spaces between .".split()',
            "encoding = tokenizer.encode(words, is_pretokenized=True)",
        ]
    cut = [] if max_length is None else [f"tokenizer.enable_truncation(max_length={max_length})"]
    return (
        'tokenizer = Tokenizer.from_file("tokenizer.json")',
        *cut,
        *given,
        "feed = {",
        *(f"    {json.dumps(x)}: np.array([encoding.{_ENCODING[x]}], dtype=np.int64)," for x in inputs),
        "}",
    )


def _numbers(inputs: Sequence[str]) -> tuple[str, ...]:
    return (
        "for value in session.get_inputs():",
        "    print(value.name, value.type, value.shape)",
        "feed = {",
        *(f"    {json.dumps(x)}: ...,  # a numpy array of that type and shape" for x in inputs),
        "}",
    )
