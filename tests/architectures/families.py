"""The models of the table of architectures: tiny, with random weights, and with tiny data.

Families whose parts are known are in `tests/hf_families.py`; here are those without a layout, images and the
project's own model files.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.hf_families import FAMILIES, SIZES, TYPED, WORDS, Family, write_family

__all__ = ["ENTRIES", "Entry", "KINDS"]

Recipe = tuple[dict[str, Any], dict[str, Any]]  # its `model:` and `data:`
Write = Callable[[Path], Recipe]
ROOT = Path(__file__).resolve().parents[2]
KINDS = ("Text encoders", "Decoders", "Decoders as classifiers", "Vision", "Modules of your own")


@dataclass(frozen=True)
class Entry:
    """A row of the table.

    Attributes:
        kind: one of `KINDS`.
        write: writes model and data into a directory, and returns a recipe's `model:` and `data:`.
    """

    kind: str
    write: Write


_TYPED = {"model_input_names": TYPED}
_WITHOUT_INTERMEDIATE = {name: size for name, size in SIZES.items() if name != "intermediate_size"}
_CLASSIFIERS = ("gpt2", "llama", "mistral", "qwen3", "gemma", "gemma2")
_SQUEEZE = {f"{name}_groups": 1 for name in ("q", "k", "v", "post_attention", "intermediate", "output")}
# Encoders without a layout: quantized and exported, not cut.
_ENCODERS = {
    "convbert": Family("convbert", "bert", {**SIZES, "embedding_size": 32, "conv_kernel_size": 3}, _TYPED),
    "deberta": Family(
        "deberta",
        "bert",
        {**SIZES, "type_vocab_size": 0, "relative_attention": True, "pos_att_type": ["c2p"]},
    ),
    "ernie": Family("ernie", "bert", settings=_TYPED),
    "esm": Family("esm", "bert", {**SIZES, "position_embedding_type": "rotary", "mask_token_id": 4}),
    "fnet": Family(
        "fnet",
        "bert",
        {**SIZES, "tpu_short_seq_length": 40},
        {"model_input_names": ["input_ids", "token_type_ids"]},
    ),
    "funnel": Family(
        "funnel",
        "bert",
        {"block_sizes": [1, 1], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 48},
        _TYPED,
    ),
    "megatron-bert": Family("megatron-bert", "bert", settings=_TYPED),
    "mobilebert": Family(
        "mobilebert",
        "bert",
        {**SIZES, "embedding_size": 16, "true_hidden_size": 16, "intra_bottleneck_size": 16},
        _TYPED,
    ),
    "nystromformer": Family(
        "nystromformer", "bert", {**SIZES, "num_landmarks": 4, "segment_means_seq_len": 40}, _TYPED
    ),
    "roformer": Family("roformer", "bert", {**SIZES, "embedding_size": 32}, _TYPED),
    "squeezebert": Family("squeezebert", "bert", {**SIZES, "embedding_size": 32, **_SQUEEZE}, _TYPED),
    "xlnet": Family("xlnet", "bert", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}, _TYPED),
}
_GROUPED = {**SIZES, "num_key_value_heads": 2}
# Decoders without a layout.
_DECODERS = {
    "bloom": Family("bloom", "decoder", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "cohere": Family("cohere", "decoder", _GROUPED),
    "falcon": Family(
        "falcon", "decoder", {**_WITHOUT_INTERMEDIATE, "ffn_hidden_size": 48, "multi_query": True}
    ),
    "gpt_neo": Family(
        "gpt_neo",
        "decoder",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 6,
            "max_position_embeddings": 40,
        },
    ),
    "granite": Family("granite", "decoder", _GROUPED),
    "mamba": Family("mamba", "decoder", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
    "mpt": Family(
        "mpt",
        "decoder",
        {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 40, "expansion_ratio": 2},
    ),
    "olmo": Family("olmo", "decoder", _GROUPED),
    "opt": Family("opt", "decoder", {**_WITHOUT_INTERMEDIATE, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "phi": Family("phi", "decoder", _GROUPED),
    "stablelm": Family("stablelm", "decoder", _GROUPED),
    "starcoder2": Family("starcoder2", "decoder", {**_GROUPED, "sliding_window": 6}),
}
_HIDDEN = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_PATCHES = {**_HIDDEN, "image_size": 32, "patch_size": 8, "initializer_range": 0.2}
_FOUR = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
_SMALL = {"image_size": 32, "initializer_range": 0.3}
_IMAGES: dict[str, dict[str, Any]] = {
    "beit": {**_PATCHES, "use_relative_position_bias": True, "layer_scale_init_value": 0.6},
    "convnext": {**_FOUR, "layer_scale_init_value": 0.6},
    "deit": _PATCHES,
    "dinov2": {**_PATCHES, "mlp_ratio": 2, "layerscale_value": 0.6},
    "efficientnet": {**_SMALL, "width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320},
    "mobilenet_v2": {**_SMALL, "depth_multiplier": 0.25},
    "mobilevit": {
        "hidden_sizes": [16, 24, 32],
        "neck_hidden_sizes": [8, 8, 16, 24, 32, 40, 48],
        "image_size": 64,
    },
    "resnet": {**_FOUR, "embedding_size": 8},
    "segformer": {**_FOUR, "num_attention_heads": [1, 2, 2, 4]},
    "swin": {
        "image_size": 32,
        "patch_size": 2,
        "embed_dim": 8,
        "depths": [2, 2],  # each second block is shifted
        "num_heads": [2, 2],
        "window_size": 4,
    },
    "vit": _PATCHES,
}
_TWO_HEADS = {"deit": "DeiTForImageClassification"}  # no default of transformers
_OWN_SIZES = {"input_dim": 4, "output_dim": 10}
_OWN: dict[str, tuple[str, str, dict[str, Any]]] = {
    "models/transformer.py": (
        "transformer.py",
        "patch_classifier",
        {**_OWN_SIZES, "d_model": 32, "nhead": 4, "num_layers": 2, "dropout": 0.0, "max_length": 20},
    ),
    "models/cnn.py": (
        "cnn.py",
        "patch_classifier",
        {**_OWN_SIZES, "grid": 4, "widths": [8, 16], "blocks": 1},
    ),
    "models/rnn.py, LSTM": ("rnn.py", "patch_classifier", {**_OWN_SIZES, "hidden": 16, "cell": "lstm"}),
    "models/rnn.py, GRU": ("rnn.py", "patch_classifier", {**_OWN_SIZES, "hidden": 16, "cell": "gru"}),
}
TRAIN = {"epochs": 1, "batch_size": 32, "learning_rate": 3e-3, "precision": "fp32"}


def _texts(count: int, seed: int = 0) -> list[str]:
    """Different texts of 1 to 50 words, longer than any limit."""
    draw, rows = np.random.default_rng(seed), set[str]()
    while len(rows) < count:
        rows.add(" ".join(draw.choice(WORDS, int(draw.integers(1, 50)))))
    return sorted(rows)


def _classifier(family: Family) -> Write:
    def write(directory: Path) -> Recipe:
        model, rows = write_family(directory / "model", family), directory / "rows.csv"
        lines = [f"{text},{'abc'[len(text) % 3]}\n" for text in _texts(160)]
        rows.write_text("".join(["text,label\n", *lines]))
        return {"hf": str(model)}, {"source": "file", "train": str(rows)}

    return write


def _language_model(family: Family) -> Write:
    def write(directory: Path) -> Recipe:
        model, folder = write_family(directory / "model", family, decoder=True), directory / "corpus"
        folder.mkdir()
        for number in range(12):
            (folder / f"{number}.txt").write_text(" ".join(_texts(10, seed=number)))
        limits = {"validation_limit": 8, "test_limit": 8, "train_limit": 32, "max_length": 24}
        return {"hf": str(model)}, {"source": "corpus", "train": str(folder), **limits}

    return write


def _image_classifier(model_type: str, sizes: dict[str, Any]) -> Write:
    def write(directory: Path) -> Recipe:
        import torch
        import transformers

        size, path = int(sizes.get("image_size", 32)), directory / "model"
        named = {"id2label": {0: "class-0", 1: "class-1"}, "label2id": {"class-0": 0, "class-1": 1}}
        config = transformers.AutoConfig.for_model(model_type, **sizes, **named)
        torch.manual_seed(0)
        kind = _TWO_HEADS.get(model_type)
        made = getattr(transformers, kind)(config) if kind else _image_head(config)
        made.save_pretrained(path)
        read = {"size": {"height": size, "width": size}, "image_mean": [0.5] * 3, "image_std": [0.2] * 3}
        (path / "preprocessor_config.json").write_text(json.dumps(read))
        return {"hf": str(path)}, _images(directory / "images", size)

    return write


def _image_head(config: Any) -> Any:
    import transformers

    return transformers.AutoModelForImageClassification.from_config(config)


def _images(directory: Path, size: int) -> dict[str, Any]:
    from PIL import Image

    draw = np.random.default_rng(0)
    for label in range(2):
        folder = directory / f"class-{label}"
        folder.mkdir(parents=True)
        for index in range(30):
            pixels = draw.integers(0, 120, (size, size, 3))
            pixels[..., label] += 120
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:02}.png")
    return {"source": "images", "train": str(directory)}


def _own(name: str) -> Write:
    def write(directory: Path) -> Recipe:
        file, builder, args = _OWN[name]
        model = {"file": str(ROOT / "models" / file), "builder": builder, "args": args, "train": TRAIN}
        return model, {"source": "digits", "train_limit": 200, "test_fraction": 0.06}

    return write


def _entries() -> dict[str, Entry]:
    encoders, decoders, images, own = KINDS[0], KINDS[1], KINDS[3], KINDS[4]
    known = {name: each for name, each in FAMILIES.items() if ", padded" not in name}
    texts = {name: each for name, each in known.items() if each.tokenizer != "decoder"}
    causal = {name: each for name, each in known.items() if each.tokenizer == "decoder"}
    found = {name: Entry(encoders, _classifier(each)) for name, each in {**texts, **_ENCODERS}.items()}
    for name, each in {**causal, **_DECODERS}.items():
        found[f"{name} (language model)"] = Entry(decoders, _language_model(each))
    for name in _CLASSIFIERS:
        found[f"{name} (classifier)"] = Entry(KINDS[2], _classifier(FAMILIES[name]))
    for name, sizes in _IMAGES.items():
        found[name] = Entry(images, _image_classifier(name, sizes))
    return found | {name: Entry(own, _own(name)) for name in _OWN}


ENTRIES = _entries()
