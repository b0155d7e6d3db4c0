"""Tiny models and data that several test files share. Everything is drawn from fixed seeds."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from compress.data import Splits, from_arrays
from compress.errors import CompressError, MeasureError
from compress.measure.process import pair, worker
from compress.measure.process.request import Request
from compress.model.files.definition import Definition
from compress.progress import Bar
from compress.stage import Context

if hasattr(signal, "SIGHUP"):  # nohup ignores it, also for all that tests start
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
torch.set_num_threads(1)  # on tiny tensors two threads only wait for each other, longer on a busy machine

ROOT = Path(__file__).resolve().parent.parent
TRANSFORMER = ROOT / "models" / "transformer.py"


# By time: a file is run by one process, and one that is begun last is waited for by all others.
LONGEST_FILES = (
    "test_run.py",
    "test_killed.py",
    "test_cli.py",
    "test_readme.py",
    "test_tutorial.py",
    "test_many.py",
    "test_jobs.py",
    "test_language.py",
    "test_timer.py",
    "test_progress.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: index for index, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def separable_rows(count: int, seed: int, *, length: int = 5) -> dict[str, np.ndarray]:
    """Rows [n, s, 4] of three classes, each with its own mean: a tiny model learns them in a few steps."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    centres = np.array([[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]], dtype=np.float32)
    noise = draw.normal(0, 1, (count, length, 4)).astype(np.float32)
    return {"features": centres[labels][:, None, :] + noise, "labels": labels}


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_a_quiet_machine() -> Iterator[None]:
    """Other tests run beside: a minute of waiting, twice for each gate of speed, brings no quiet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compress.pipeline.measuring._WAIT_S", 0)
        yield


def _measure_here(request: Request, bar: Bar) -> None:
    try:
        measured = worker.measure(request, bar.advance)
    except CompressError as error:
        raise MeasureError(str(error)) from error
    request.result.write_text(measured.model_dump_json(), encoding="utf-8")


@pytest.fixture(scope="session", autouse=True)
def _measuring_in_this_process() -> Iterator[None]:
    """Measure without a process of its own, and load each file once instead of three times.

    To start these processes takes far longer than to measure a tiny model. They are real in tests/measure and
    where a test starts the command as a process.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair, "_run", _measure_here)
        patch.setattr(worker, "measure_load", partial(worker.measure_load, processes=1))
        yield


@pytest.fixture(scope="session")
def splits() -> Splits:
    return from_arrays(
        train=separable_rows(96, 0), validation=separable_rows(48, 1), test=separable_rows(48, 2)
    )


@pytest.fixture
def context(splits: Splits) -> Context:
    return Context(task=splits.task, train=splits.train, validation=splits.validation)


@pytest.fixture(scope="session")
def definition() -> Definition:
    arguments = {"input_dim": 4, "output_dim": 3, "d_model": 32, "nhead": 4, "num_layers": 2}
    return Definition.from_file(
        TRANSFORMER, "patch_classifier", {**arguments, "dim_feedforward": 64, "dropout": 0.0, "max_length": 8}
    )


@pytest.fixture
def model(definition: Definition) -> torch.nn.Module:
    return definition.build(seed=0)


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, "good", "bad", "fine", "poor", "film", "plot", "a", "the", "was", "very", "not"]
HF_TYPES = ("bert", "distilbert", "electra", "roberta")


def write_hf_model(directory: Path, model_type: str, *, labels: tuple[str, ...] = ("0", "1")) -> Path:
    """Save a tiny Hugging Face classifier with a word-level tokenizer, as `from_pretrained` reads it."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    sizes = {"vocab_size": len(WORDS), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    if model_type == "distilbert":
        sizes = {"vocab_size": len(WORDS), "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    elif model_type == "electra":
        sizes |= {"embedding_size": 16, "intermediate_size": 64}
    else:
        sizes |= {"intermediate_size": 64}
    typed = model_type in ("bert", "electra")
    config = transformers.AutoConfig.for_model(
        model_type,
        **sizes,
        max_position_embeddings=40,
        pad_token_id=0,
        type_vocab_size=1 if model_type == "roberta" else 2,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(directory)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", *(["token_type_ids"] if typed else []), "attention_mask"],
    )
    wrapped.save_pretrained(directory)
    return directory


def _write_vit(directory: Path, model_type: str = "vit", *, kind: str = "", labels: int = 3) -> Path:
    """Save a tiny Hugging Face model of 12x12 pictures, with its preprocessor_config.json."""
    import transformers

    config = transformers.AutoConfig.for_model(
        model_type,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=12,
        patch_size=4,
        initializer_range=0.2,  # so that logits differ from picture to picture
        id2label={index: f"class-{index}" for index in range(labels)},
        label2id={f"class-{index}": index for index in range(labels)},
    )
    torch.manual_seed(0)
    cls = getattr(transformers, kind or {"vit": "ViT", "deit": "DeiT"}[model_type] + "ForImageClassification")
    cls(config).save_pretrained(directory)
    settings = {"size": {"height": 12, "width": 12}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2] * 3}
    (directory / "preprocessor_config.json").write_text(json.dumps(settings))
    return directory


def _write_pictures(root: Path, *, classes: int = 3, each: int = 12, size: int = 12, seed: int = 0) -> Path:
    """Write PNG files to sub-folders class-0 and so on; a class's pictures are of one colour, and noisy."""
    from PIL import Image

    draw = np.random.default_rng(seed)
    for label in range(classes):
        folder = root / f"class-{label}"
        folder.mkdir(parents=True)
        for index in range(each):
            pixels = draw.integers(0, 120, (size, size, 3))
            pixels[..., label % 3] += 120
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:02}.png")
    return root


@pytest.fixture(scope="session")
def cuttable_vit() -> None:
    """Skip where transformers is too old for a vision Transformer to be cut."""
    major, minor = version("transformers").split(".")[:2]
    if (int(major), int(minor)) < (5, 10):
        pytest.skip("vision Transformers are cut with transformers 5.10 or newer")


@pytest.fixture(scope="session")
def write_vit() -> Callable[..., Path]:
    """A function that saves a tiny Hugging Face vision Transformer."""
    return _write_vit


@pytest.fixture(scope="session")
def vit_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write_vit(tmp_path_factory.mktemp("hf") / "vit")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write_pictures(tmp_path_factory.mktemp("images") / "pictures")


@pytest.fixture(scope="session", params=HF_TYPES)
def hf_directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf_model(tmp_path_factory.mktemp("hf") / request.param, request.param)


@pytest.fixture(scope="session")
def bert_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf_model(tmp_path_factory.mktemp("hf") / "bert", "bert")


SEEN_WORDS = ["film", "a", "the", "was"]  # with good, bad: "fine", "poor", "plot", "very", "not" never occur


def _write_reviews(path: Path, count: int = 120) -> Path:
    draw, rows = np.random.default_rng(0), set()
    while len(rows) < count:
        label = int(draw.integers(2))
        middle = draw.choice(SEEN_WORDS, int(draw.integers(2, 9)))
        rows.add((" ".join([*middle, ("bad", "good")[label]]), label))
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in sorted(rows)))
    return path


@pytest.fixture(scope="session")
def write_reviews() -> Callable[..., Path]:
    """A function that writes a CSV of different short texts that end in their label: good (1) or bad (0)."""
    return _write_reviews


@pytest.fixture
def text_model(bert_directory: Path, tmp_path: Path) -> torch.nn.Module:
    from compress.model import ModelConfig, load_model

    return load_model(
        ModelConfig.model_validate({"hf": str(bert_directory)}), seed=0, scratch=tmp_path
    ).module


@pytest.fixture(scope="session")
def text_splits(bert_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Splits:
    from compress.data import FileData, TextEncoder, load_splits

    path = _write_reviews(tmp_path_factory.mktemp("text") / "rows.csv")
    config = FileData.model_validate({"source": "file", "train": str(path), "max_length": 16})
    names = ("input_ids", "attention_mask", "token_type_ids")
    return load_splits(config, reader=TextEncoder.from_directory(bert_directory, input_names=names))


@pytest.fixture
def text_context(bert_directory: Path, text_splits: Splits) -> Context:
    from compress.data import TextEncoder

    names = ("input_ids", "attention_mask", "token_type_ids")
    encoder = TextEncoder.from_directory(bert_directory, input_names=names)
    encoder.tokenizer.enable_truncation(16)  # as it was when it encoded the splits
    return Context(
        task=text_splits.task, train=text_splits.train, validation=text_splits.validation, reader=encoder
    )


TINY_MODEL = {
    "file": str(TRANSFORMER),
    "builder": "patch_classifier",
    "args": {
        "input_dim": 4,
        "output_dim": 10,
        "d_model": 32,
        "nhead": 4,
        "num_layers": 2,
        "dim_feedforward": 64,
        "dropout": 0.0,
        "max_length": 16,
    },
    "train": {"epochs": 2, "batch_size": 32, "learning_rate": 3e-3, "precision": "fp32"},
}
WriteRecipe = Callable[..., Path]


@pytest.fixture(scope="session")
def write_recipe() -> WriteRecipe:
    """A function that writes a tiny recipe on the digits; named keys replace its own, None removes one."""

    def write(path: Path, *stages: Any, **changes: Any) -> Path:
        recipe = {
            "model": TINY_MODEL,
            "data": {"source": "digits", "train_limit": 200, "test_fraction": 0.06},
            "stages": list(stages) or ["quantize/int8_dynamic"],
            "export": {"min_agreement": 0.9, "max_metric_difference": 0.1},
            "measure": {"batch": [1], "threads": [1], "rounds": 3, "seconds": 0.01, "ladder": False},
        } | changes
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump({k: value for k, value in recipe.items() if value is not None}))
        return path

    return write


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory, write_recipe: WriteRecipe) -> Path:
    """The folder of one finished run: digits.yaml, its recipe, and reports/ with digits and the cache."""
    from compress.pipeline import run

    folder = tmp_path_factory.mktemp("digits")
    recipe = write_recipe(folder / "digits.yaml", name="digits")
    run(recipe, folder / "reports")
    return folder
