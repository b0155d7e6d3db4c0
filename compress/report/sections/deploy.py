"""How to run a bundle: a short program with onnxruntime, and tokenizers for text or Pillow for images."""

from __future__ import annotations

import json
from collections.abc import Sequence

from compress.data import PIXELS, PREPROCESSOR_FILE
from compress.page import Code, Section, Text
from compress.report.phrases import headline
from compress.report.schema import RunReport
from compress.safe_text import visible

__all__ = ["deploy_packages", "deploy_snippet", "reads_text", "section", "sees_images"]

_MOST_LABELS = 20
# What the tokenizer's encoding calls the array that each of the Hub's input names takes.
_ENCODING = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


def section(report: RunReport, inputs: Sequence[str]) -> Section:
    """The program, and what it needs."""
    needs = f"Needs {', '.join(deploy_packages(inputs))}; run it inside the bundle."
    program = Code(deploy_snippet(report, inputs), "python")
    return Section("Deploy", (Text(needs, "note"), program), "deploy")


def reads_text(inputs: Sequence[str]) -> bool:
    """Whether these are the inputs of a model that a tokenizer feeds."""
    return "input_ids" in inputs and set(inputs) <= _ENCODING.keys()


def sees_images(inputs: Sequence[str]) -> bool:
    """Whether these are the inputs of a model of images."""
    return list(inputs) == [PIXELS]


def deploy_packages(inputs: Sequence[str]) -> tuple[str, ...]:
    """What to install to run the bundle."""
    more = ("tokenizers",) if reads_text(inputs) else ("pillow",) if sees_images(inputs) else ()
    return ("numpy", "onnxruntime", *more)


def deploy_snippet(report: RunReport, inputs: Sequence[str], file: str = "onnx/model.onnx") -> str:
    """A program that answers one row, to be run inside the bundle's directory."""
    language = report.measurement.language
    if language is not None:
        return _writing_snippet(file, language.decode[0].threads if language.decode else None)
    text, images, latency = reads_text(inputs), sees_images(inputs), headline(report)
    lines = ["import numpy as np", "import onnxruntime as ort"]
    if images:
        lines = ["import json", "from pathlib import Path", "", *lines, "from PIL import Image, ImageOps"]
    if text:
        lines.append("from tokenizers import Tokenizer")
    lines += ["", "options = ort.SessionOptions()"]
    if latency is not None:
        lines.append(_threads_line(latency.threads))
    lines.append(f'session = ort.InferenceSession("{file}", options, providers=["CPUExecutionProvider"])')
    if images:
        lines += _IMAGE_FEED.splitlines()
    else:
        lines += _text_feed(report, inputs) if text else _other_feed(inputs)
    lines.append("logits = session.run(None, feed)[0]  # [rows, labels]")
    if len(report.data.labels) <= _MOST_LABELS:
        lines.append(f"labels = {visible(json.dumps(report.data.labels, ensure_ascii=False))}")
        lines.append("print(labels[int(logits[0].argmax())])")
    else:
        lines.append("print(int(logits[0].argmax()))  # the place of the label in manifest.json")
    return "\n".join(lines) + "\n"


def _threads_line(threads: int) -> str:
    """Sets what was measured: ONNX Runtime would take the host's cores, also where a container may not."""
    return f"options.intra_op_num_threads = {threads}  # as measured; more may be faster"


def _writing_snippet(file: str, threads: int | None) -> str:
    """A program that writes on from a text, the likeliest token each time."""
    set_threads = "" if threads is None else f"{_threads_line(threads)}\n"
    return f'''import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

options = ort.SessionOptions()
{set_threads}session = ort.InferenceSession("{file}", options, providers=["CPUExecutionProvider"])
tokenizer = Tokenizer.from_file("tokenizer.json")
tokenizer.no_truncation()
names = [value.name for value in session.get_outputs()]
past = {{
    value.name: np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
    for value in session.get_inputs()
    if value.name.startswith("past_key_values.")
}}
ids = tokenizer.encode("Put the text here.").ids
new = ids
for _ in range(50):
    feed = {{"input_ids": np.array([new]), "attention_mask": np.ones((1, len(ids)), np.int64), **past}}
    found = dict(zip(names, session.run(None, feed)))
    past = {{f"past_key_values{{k[7:]}}": v for k, v in found.items() if k.startswith("present.")}}
    new = [int(found["logits"][0, -1].argmax())]
    ids = ids + new
print(tokenizer.decode(ids))
'''


_IMAGE_FEED = f"""\
settings = json.loads(Path("{PREPROCESSOR_FILE}").read_text())
channels, height, width = session.get_inputs()[0].shape[1:]
image = ImageOps.exif_transpose(Image.open("picture.png")).convert("L" if channels == 1 else "RGB")
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


def _text_feed(report: RunReport, inputs: Sequence[str]) -> list[str]:
    data = report.recipe.get("data")
    longest = data.get("max_length") if isinstance(data, dict) else None
    lines = ['tokenizer = Tokenizer.from_file("tokenizer.json")']
    if isinstance(longest, int):
        lines.append(f"tokenizer.enable_truncation(max_length={longest})")
    lines += ['encoding = tokenizer.encode("Put the text here.")', "feed = {"]
    lines += [f"    {json.dumps(x)}: np.array([encoding.{_ENCODING[x]}], dtype=np.int64)," for x in inputs]
    return [*lines, "}"]


def _other_feed(inputs: Sequence[str]) -> list[str]:
    lines = [
        "for value in session.get_inputs():",
        "    print(value.name, value.type, value.shape)",
        "feed = {",
    ]
    lines += [f"    {json.dumps(x)}: ...,  # a numpy array of that type and shape" for x in inputs]
    return [*lines, "}"]
