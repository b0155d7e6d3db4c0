"""How to run a bundle: a short program using onnxruntime, with tokenizers for text or Pillow for images."""

from __future__ import annotations

import json
from collections.abc import Sequence

from compress.data import PIXELS, PREPROCESSOR_FILE
from compress.page import Code, Section, Text
from compress.report.phrases import headline
from compress.report.schema import RunReport
from compress.safe_text import visible
from compress.tasks import task_of_measurement

__all__ = ["deploy_packages", "deploy_snippet", "reads_text", "section", "sees_images"]

_MOST_LABELS = 20
# Attribute of the tokenizer's encoding for each of the Hub's input names.
_ENCODING = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


def section(report: RunReport, inputs: Sequence[str]) -> Section:
    """The program and its requirements."""
    needs = f"Needs {', '.join(deploy_packages(inputs))}; run it inside the bundle."
    program = Code(deploy_snippet(report, inputs), "python")
    return Section("Deploy", (Text(needs, "note"), program), "deploy")


def reads_text(inputs: Sequence[str]) -> bool:
    """Whether these are the inputs of a text model, fed by a tokenizer."""
    return "input_ids" in inputs and set(inputs) <= _ENCODING.keys()


def sees_images(inputs: Sequence[str]) -> bool:
    """Whether these are the inputs of an image model."""
    return list(inputs) == [PIXELS]


def deploy_packages(inputs: Sequence[str]) -> tuple[str, ...]:
    """Packages needed to run the bundle."""
    more = ("tokenizers",) if reads_text(inputs) else ("pillow",) if sees_images(inputs) else ()
    return ("numpy", "onnxruntime", *more)


def deploy_snippet(report: RunReport, inputs: Sequence[str], file: str = "onnx/model.onnx") -> str:
    """A program that runs one row, from inside the bundle's directory."""
    task, latency = task_of_measurement(report.measurement), headline(report)
    own = task.program(file, "" if latency is None else f"{_threads_line(latency.threads)}\n")
    if own is not None:
        return own
    text, images = reads_text(inputs), sees_images(inputs)
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
    lines += map(visible, task.snippet(report.data.labels, _MOST_LABELS))
    return "\n".join(lines) + "\n"


def _threads_line(threads: int) -> str:
    """Set the threads as measured; ONNX Runtime would use all cores of the host even in a container."""
    return f"options.intra_op_num_threads = {threads}  # as measured; more may be faster"


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
