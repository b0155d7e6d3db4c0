"""A bundle in transformers.js under Node: the same model, tokenizer and picture files, another runtime."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
import yaml
from PIL import Image
from tokenizers import Tokenizer

import compress
from compress.data.readers.byte_tokenizer import write_byte_tokenizer
from compress.deploy.generate import Writer, Written
from compress.model import ModelConfig, load_model

from ..conftest import TRANSFORMER

pytestmark = pytest.mark.slow

SHARED = Path(os.environ.get("MODELPRESS_SHARED", Path(__file__).parents[3] / "shared"))
SENTENCES = 20
CLASSIFY = """
import { readFileSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { env, pipeline } from '@huggingface/transformers';

const bundle = process.argv[2];
env.allowRemoteModels = false;
env.localModelPath = dirname(bundle);
const options = { dtype: 'fp32', local_files_only: true };  // fp32 means onnx/model.onnx, whatever is in it
const classify = await pipeline('text-classification', basename(bundle), options);
const answers = [];
for (const text of JSON.parse(readFileSync(0, 'utf-8'))) answers.push((await classify(text))[0]);
console.log(JSON.stringify(answers));
"""


def _program(name: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is not on the PATH: install Node.js 20 or newer to run this test"
    return found


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, beside its packages from the npm registry; the CPU runtime is in them."""
    directory = tmp_path_factory.mktemp("node")
    (directory / "package.json").write_text('{"private": true}')
    _program("node")
    packages = ["@huggingface/transformers@4"]
    subprocess.run(
        [_program("npm"), "install", "--ignore-scripts", "--no-audit", "--no-fund", *packages],
        cwd=directory,
        check=True,
    )
    (directory / "classify.mjs").write_text(CLASSIFY)
    return directory / "classify.mjs"


def _answers_of_javascript(script: Path, bundle: Path, texts: list[str]) -> list[tuple[str, float]]:
    done = subprocess.run(
        [_program("node"), str(script), str(bundle)],
        input=json.dumps(texts),
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=True,
    )
    return [(answer["label"], answer["score"]) for answer in json.loads(done.stdout.splitlines()[-1])]


def _answers_of_python(bundle: Path, texts: list[str]) -> list[tuple[str, float]]:
    session = onnxruntime.InferenceSession(bundle / "onnx" / "model.onnx")
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    labels = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["labels"]
    answers = []
    for text in texts:
        encoding = tokenizer.encode(text)
        columns = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        feed = {i.name: np.array([columns[i.name]], dtype=np.int64) for i in session.get_inputs()}
        logits = session.run(None, feed)[0][0]
        shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        answers.append((labels[int(shares.argmax())], float(shares.max())))
    return answers


@pytest.mark.parametrize("stage", [None, "quantize-int8", "quantize-int4"])
def test_transformers_js_answers_as_onnxruntime_in_python_does(
    stage: str | None, script: Path, tmp_path: Path
) -> None:
    model, reviews = SHARED / "models" / "minilm-reviews", SHARED / "data" / "reviews"
    assert model.is_dir() and reviews.is_dir(), f"{SHARED}: no model and reviews; set MODELPRESS_SHARED"
    with (reviews / "test.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[:SENTENCES]
    with (tmp_path / "few.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    bundle = tmp_path / "bundle"
    if stage is None:
        compress.export_model(model, bundle)
    else:
        data = [f"data.{part}={reviews / part}.csv" for part in ("train", "validation")]
        recipe = Path(__file__).parents[2] / "recipes" / "reviews" / f"{stage}.yaml"
        quick = ["measure.rounds=3", "measure.seconds=0.01", "measure.batch=[1]", "measure.threads=[1]"]
        # On few test rows, for time: how well it does on all is what test_reviews.py looks at.
        changes = [f"model.hf={model}", *data, f"data.test={tmp_path / 'few.csv'}", *quick, "name=bundle"]
        compress.run(compress.load_recipe(recipe, [*changes, "measure.sequence=[32]"]), tmp_path)
    texts = [row["text"] for row in rows]
    ours, theirs = _answers_of_python(bundle, texts), _answers_of_javascript(script, bundle, texts)
    assert [label for label, _ in theirs] == [label for label, _ in ours]
    # Two builds of one runtime; an int8 activation on a rounding edge moves a probability by far less.
    assert [score for _, score in theirs] == pytest.approx([score for _, score in ours], abs=0.01)


CLASSIFY_PICTURES = """
import { basename, dirname } from 'node:path';
import { env, pipeline } from '@huggingface/transformers';

const [bundle, ...files] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = dirname(bundle);
const options = { dtype: 'fp32', local_files_only: true };
const classify = await pipeline('image-classification', basename(bundle), options);
const answers = [];
for (const file of files) answers.push((await classify(file, { top_k: 1 }))[0]);
console.log(JSON.stringify(answers));
"""


def test_transformers_js_reads_pictures_as_the_bundle_says(
    script: Path, vit_directory: Path, pictures: Path, tmp_path: Path
) -> None:
    program = script.with_name("pictures.mjs")
    program.write_text(CLASSIFY_PICTURES)
    bundle = tmp_path / "bundle"
    compress.export_model(vit_directory, bundle)
    loaded = load_model(ModelConfig(bundle=bundle), seed=0, scratch=tmp_path)
    assert loaded.processor is not None and loaded.label_order is not None
    files = sorted(pictures.rglob("0[0-4].png"))
    command = [_program("node"), str(program), str(bundle), *map(str, files)]
    done = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    theirs = json.loads(done.stdout.splitlines()[-1])
    session = onnxruntime.InferenceSession(bundle / "onnx" / "model.onnx")
    for file, answer in zip(files, theirs, strict=True):
        with Image.open(file) as image:
            values = loaded.processor.values(loaded.processor.pixels(image))[None]
        logits = session.run(None, {"pixel_values": values})[0][0]
        shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        assert answer["label"] == loaded.label_order[int(shares.argmax())]
        # The same pixels (nothing is resized) and weights in two builds of one runtime.
        assert answer["score"] == pytest.approx(float(shares.max()), abs=1e-3)


WRITE = """
import { readFileSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { env, pipeline } from '@huggingface/transformers';

const [bundle, count] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = dirname(bundle);
const write = await pipeline('text-generation', basename(bundle), { dtype: 'fp32', local_files_only: true });
const settings = { max_new_tokens: Number(count), do_sample: false };
const answers = [];
for (const prompt of JSON.parse(readFileSync(0, 'utf-8'))) {
    const ids = await write.model.generate({ ...write.tokenizer(prompt), ...settings });
    const [{ generated_text }] = await write(prompt, { ...settings, return_full_text: false });
    answers.push([ids.tolist()[0].map(Number), generated_text]);
}
console.log(JSON.stringify(answers));
"""
PROMPTS = ["def main(", "import os\nimport sys", "# é", "longer than a row of the data: " + "import os\n" * 3]
LIMITS = {"train_limit": 60, "validation_limit": 16, "test_limit": 8}
STRUCTURED = {"macs": 0.6, "importance": "fisher", "search_steps": 2}


def _written_by_javascript(script: Path, bundle: Path) -> list[tuple[list[int], str]]:
    program = script.with_name("write.mjs")
    program.write_text(WRITE)
    done = subprocess.run(
        [_program("node"), str(program), str(bundle), "24"],
        input=json.dumps(PROMPTS),
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=True,
    )
    return [(ids, text) for ids, text in json.loads(done.stdout.splitlines()[-1])]


def _written_by_us(bundle: Path) -> list[tuple[list[int], str]]:
    writer, answers = Writer(bundle), []
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    for prompt in PROMPTS:
        written = Written()
        text = "".join(writer.write(prompt, most=24, written=written))
        end = [min(writer.end_ids)] if written.ended == "end" else []
        answers.append(([*tokenizer.encode(prompt).ids, *written.ids, *end], text))
    return answers


@pytest.mark.parametrize(
    ("kind", "stage"),
    [
        ("llama", None),
        ("llama", {"quantize/int4_weight_only": {}}),
        ("llama", {"prune/heads": {"sparsity": 0.5}}),  # layers keep different numbers of heads
        ("llama", {"prune/structured": {**STRUCTURED, "calibration_rows": 16, "search_rows": 16}}),
        ("gpt2", {"prune/heads": {"sparsity": 0.5}}),
        ("causal_lm", {"quantize/int4_weight_only": {"activations": "int8"}}),
    ],
    ids=str,
)
def test_transformers_js_writes_what_generate_writes(
    kind: str, stage: dict[str, Any] | None, script: Path, tmp_path: Path
) -> None:
    model = _decoder_directory(tmp_path, kind)
    bundle = tmp_path / "bundle"
    if stage is None:
        compress.export_model(model["hf"], bundle)
    else:
        recipe = {
            "model": model,
            "data": {"source": "stdlib", "train_bytes": 20_000, "max_length": 32, **LIMITS},
            "stages": [stage],
            "export": {"parity_rows": 4, "min_agreement": 0.8, "max_metric_difference": 0.2},
            "measure": {"batch": [1], "threads": [1], "rounds": 3, "seconds": 0.01},
        }
        (tmp_path / "bundle.yaml").write_text(yaml.safe_dump(recipe))
        bundle = compress.run(tmp_path / "bundle.yaml", tmp_path).directory
    assert _written_by_javascript(script, bundle) == _written_by_us(bundle)


def _decoder_directory(root: Path, kind: str) -> dict[str, Any]:
    if kind == "causal_lm":
        sizes = {"d_model": 32, "nhead": 4, "num_layers": 2, "max_length": 96, "dropout": 0.0}
        args = {"input_dim": 257, **sizes}
        return {"file": str(TRANSFORMER), "builder": kind, "tokenizer": "bytes", "args": args}
    names = {"vocab_size": 257, "bos_token_id": 256, "eos_token_id": 256}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 96}
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, **heads}
    if kind == "gpt2":
        sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 96}
    config = transformers.AutoConfig.for_model(kind, **sizes, **names, initializer_range=0.1)
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(root / kind)
    for file in write_byte_tokenizer(root / "bytes").iterdir():
        shutil.copy(file, root / kind / file.name)
    return {"hf": str(root / kind)}
