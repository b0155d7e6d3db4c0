"""Tiny models of every family that an engineer might bring, with random weights, and tiny data for them.

Hugging Face configurations of two layers and width 32, a word-level tokenizer, and the project's own model
files. `FAMILIES` maps a name to a function that writes the model into a directory and returns the recipe's
`model:` and `data:`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["FAMILIES", "Entry"]

ROOT = Path(__file__).resolve().parents[2]
Entry = tuple[dict[str, Any], dict[str, Any]]  # a recipe's model: and data:
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[EOS]"]
WORDS = [*SPECIAL, "bad", "good", *(f"word{index}" for index in range(42))]
LENGTH = 24  # tokens, data.max_length

# Sizes under every name that transformers has for them; a configuration takes those that it knows.
SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,  # so that answers differ from row to row
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 5,
}
DIM = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}  # DistilBERT, XLM, FlauBERT
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "n_inner": 48}

SEGMENTS = ("input_ids", "token_type_ids", "attention_mask")
TOKENS = ("input_ids", "attention_mask")

TEXT: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "albert": (SEGMENTS, {"embedding_size": 16}),
    "bert": (SEGMENTS, {}),
    "big_bird": (SEGMENTS, {"attention_type": "original_full"}),
    "bloom": (TOKENS, {"n_layer": 2, "n_head": 4}),
    "camembert": (TOKENS, {"type_vocab_size": 1}),
    "convbert": (SEGMENTS, {"embedding_size": 32, "conv_kernel_size": 3}),
    "data2vec-text": (TOKENS, {"type_vocab_size": 1}),
    "deberta": (SEGMENTS, {"type_vocab_size": 0}),
    "deberta-v2": (
        SEGMENTS,
        {
            "type_vocab_size": 0,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 8,
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "position_biased_input": False,
        },
    ),
    "distilbert": (TOKENS, DIM),
    "electra": (SEGMENTS, {"embedding_size": 16}),
    "esm": (TOKENS, {"position_embedding_type": "rotary", "mask_token_id": 4, "token_dropout": False}),
    "ernie": (SEGMENTS, {}),
    "eurobert": (TOKENS, {}),
    "fnet": (("input_ids", "token_type_ids"), {"tpu_short_seq_length": 24}),
    "funnel": (
        SEGMENTS,
        {
            "num_hidden_layers": None,
            "block_sizes": [1, 1],
            "d_model": 32,
            "n_head": 4,
            "d_head": 8,
            "d_inner": 48,
        },
    ),
    "gemma": (TOKENS, {}),
    "gemma2": (TOKENS, {"sliding_window": 8, "query_pre_attn_scalar": 8}),
    "gpt2": (TOKENS, GPT),
    "gpt_neo": (
        TOKENS,
        {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 8},
    ),
    "gpt_neox": (TOKENS, {}),
    "layoutlm": (SEGMENTS, {}),
    "llama": (TOKENS, {}),
    "jina_embeddings_v3": (SEGMENTS, {}),
    "longformer": (TOKENS, {"attention_window": [8, 8]}),
    "megatron-bert": (SEGMENTS, {}),
    "mistral": (TOKENS, {"sliding_window": 8}),
    "mobilebert": (SEGMENTS, {"embedding_size": 16, "true_hidden_size": 16, "intra_bottleneck_size": 16}),
    "modernbert": (TOKENS, {"global_attn_every_n_layers": 2, "local_attention": 8, "num_hidden_layers": 4}),
    "mpnet": (TOKENS, {}),
    "nomic_bert": (SEGMENTS, {}),
    "nystromformer": (SEGMENTS, {"num_landmarks": 4, "segment_means_seq_len": 24}),
    "opt": (TOKENS, {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "phi3": (TOKENS, {}),
    "qwen2": (TOKENS, {"vocab_size": 320}),
    "qwen3": (TOKENS, {}),
    "rembert": (SEGMENTS, {"input_embedding_size": 16, "output_embedding_size": 16}),
    "roberta": (TOKENS, {"type_vocab_size": 1}),
    "roformer": (SEGMENTS, {"embedding_size": 32}),
    "squeezebert": (
        SEGMENTS,
        {"embedding_size": 32, **{f"{each}_groups": 1 for each in ("q", "k", "v", "post_attention")}},
    ),
    "t5": (TOKENS, {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}),
    "bart": (
        TOKENS,
        {
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
        },
    ),
    "xlm": (TOKENS, {"emb_dim": 32, "n_layers": 2, "n_heads": 4}),
    "xlm-roberta": (TOKENS, {"type_vocab_size": 1}),
    "xlnet": (
        SEGMENTS,
        {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48, "max_position_embeddings": None},
    ),
}

DECODERS: dict[str, dict[str, Any]] = {
    "bloom": {"n_layer": 2, "n_head": 4},
    "codegen": {**GPT, "rotary_dim": 4},
    "falcon": {
        "head_dim": None,
        "new_decoder_architecture": False,
        "multi_query": True,
        "ffn_hidden_size": 48,
    },
    "gemma": {},
    "gemma2": {"sliding_window": 8, "query_pre_attn_scalar": 8},
    "gemma3_text": {
        "sliding_window": 8,
        "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gpt2": GPT,
    "gpt_neo": {
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 8,
    },
    "gpt_neox": {},
    "gptj": {**GPT, "rotary_dim": 4},
    "granite": {},
    "llama": {},
    "mamba": {"state_size": 4},
    "mistral": {"sliding_window": 8},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64, "expansion_ratio": 2},
    "olmo": {},
    "olmo2": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "phi": {},
    "phi3": {},
    "qwen2": {"vocab_size": 320},
    "qwen3": {},
    "smollm3": {"no_rope_layers": [1, 0]},
    "stablelm": {},
    "starcoder2": {"sliding_window": 8},
}

_HIDDEN = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_PATCHES = {**_HIDDEN, "image_size": 32, "patch_size": 8, "initializer_range": 0.2}
_STAGES4 = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
IMAGES: dict[str, dict[str, Any]] = {
    "beit": _PATCHES,
    "convnext": _STAGES4,
    "convnextv2": _STAGES4,
    "cvt": {"embed_dim": [8, 16, 32], "num_heads": [1, 2, 4], "depth": [1, 2, 3]},
    "data2vec-vision": _PATCHES,
    "deit": _PATCHES,
    "dinov2": {**_PATCHES, "mlp_ratio": 2},
    "efficientnet": {
        "width_coefficient": 0.25,
        "depth_coefficient": 0.25,
        "image_size": 32,
        "hidden_dim": 64,
    },
    "levit": {
        "image_size": 64,
        "hidden_sizes": [16, 32, 48],
        "num_attention_heads": [2, 2, 2],
        "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
    },
    "mobilenet_v1": {"depth_multiplier": 0.25, "image_size": 32, "initializer_range": 0.3},
    "mobilenet_v2": {"depth_multiplier": 0.25, "image_size": 32, "initializer_range": 0.3},
    "mobilevit": {
        "hidden_sizes": [16, 24, 32],
        "neck_hidden_sizes": [8, 8, 16, 24, 32, 40, 48],
        "image_size": 64,
    },
    "poolformer": {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "mlp_ratio": 2.0},
    "regnet": {
        "embedding_size": 8,
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 1, 1],
        "groups_width": 8,
    },
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
    "segformer": {
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 2, 4],
    },
    "swin": {
        "image_size": 32,
        "patch_size": 2,
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "window_size": 4,
    },
    "vit": _PATCHES,
    "vit_msn": _PATCHES,
}

# Heads that are none of our tasks: each must be refused, by name.
OTHER_TASKS = {
    "question-answering": "BertForQuestionAnswering",
    "masked-language-model": "BertForMaskedLM",
    "multiple-choice": "BertForMultipleChoice",
    "encoder-alone": "BertModel",
}


def _write_tokenizer(directory: Path, inputs: tuple[str, ...], *, side: str = "right") -> None:
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]", "eos": "[EOS]"}
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=list(inputs),
        padding_side=side,
        **{f"{name}_token": token for name, token in names.items()},
    )
    wrapped.save_pretrained(directory)


def _write_byte_pairs(directory: Path) -> None:
    """Qwen2's tokenizer, which transformers builds from a vocabulary and merges, whatever a file says."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    learner.train_from_iterator([" ".join(WORDS[len(SPECIAL) :])] * 2, trainer)
    learned = json.loads(learner.to_str())["model"]
    merges = [tuple(pair) for pair in learned["merges"]]
    tokenizer = transformers.Qwen2Tokenizer(vocab=learned["vocab"], merges=merges)
    tokenizer.save_pretrained(directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"pad_token_id": tokenizer.pad_token_id}))


def _texts(count: int, seed: int = 0) -> list[tuple[str, int]]:
    """Different texts of 2 to 14 words; the label is whether the last word is "good"."""
    draw, rows = np.random.default_rng(seed), {}
    while len(rows) < count:
        label = int(draw.integers(2))
        middle = draw.choice(WORDS[len(SPECIAL) + 2 :], int(draw.integers(1, 14)))
        rows[" ".join([*middle, ("bad", "good")[label]])] = label
    return list(rows.items())


def _text_data(directory: Path) -> dict[str, Any]:
    path = directory / "rows.csv"
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in _texts(160)))
    return {"source": "file", "train": str(path), "max_length": LENGTH}


def _corpus_data(directory: Path) -> dict[str, Any]:
    folder = directory / "corpus"
    folder.mkdir()
    for number in range(12):
        text = " ".join(text for text, _ in _texts(30, seed=number))
        (folder / f"{number}.txt").write_text(text)
    limits = {"validation_limit": 8, "test_limit": 8, "train_limit": 32}
    return {"source": "corpus", "train": str(folder), "max_length": LENGTH, **limits}


def _image_data(directory: Path, size: int) -> dict[str, Any]:
    from PIL import Image

    draw = np.random.default_rng(0)
    for label in range(2):
        folder = directory / "images" / f"class-{label}"
        folder.mkdir(parents=True)
        for index in range(30):
            pixels = draw.integers(0, 120, (size, size, 3))
            pixels[..., label] += 120
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:02}.png")
    return {"source": "images", "train": str(directory / "images")}


def _saved(directory: Path, auto: str, model_type: str, sizes: dict[str, Any], labels: int = 2) -> Path:
    """Save a model; a size of None is one that the configuration does not take."""
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(
        model_type, **{key: size for key, size in sizes.items() if size is not None}
    )
    if labels:
        config.id2label = {index: f"class-{index}" for index in range(labels)}
        config.label2id = {name: index for index, name in config.id2label.items()}
    torch.manual_seed(0)
    kind = getattr(transformers, auto)
    model = kind.from_config(config) if auto.startswith("Auto") else kind(config)
    path = directory / "model"
    model.save_pretrained(path)
    return path


def _text_family(model_type: str, *, side: str = "right") -> Callable[[Path], Entry]:
    def write(directory: Path) -> Entry:
        inputs, sizes = TEXT[model_type]
        path = _saved(directory, "AutoModelForSequenceClassification", model_type, {**SIZES, **sizes}, 0)
        config = json.loads((path / "config.json").read_text())
        config |= {"id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}}
        (path / "config.json").write_text(json.dumps(config))
        _write_byte_pairs(path) if model_type == "qwen2" else _write_tokenizer(path, inputs, side=side)
        data = _text_data(directory)
        rows = Path(data["train"]).read_text()
        Path(data["train"]).write_text(rows.replace(",0\n", ",bad\n").replace(",1\n", ",good\n"))
        return {"hf": str(path)}, data

    return write


def _decoder_family(model_type: str) -> Callable[[Path], Entry]:
    def write(directory: Path) -> Entry:
        sizes = {**SIZES, **DECODERS[model_type]}
        path = _saved(directory, "AutoModelForCausalLM", model_type, sizes, 0)
        _write_byte_pairs(path) if model_type == "qwen2" else _write_tokenizer(path, TOKENS)
        return {"hf": str(path)}, _corpus_data(directory)

    return write


def _image_family(model_type: str) -> Callable[[Path], Entry]:
    def write(directory: Path) -> Entry:
        sizes = IMAGES[model_type]
        size = int(sizes.get("image_size", 32))
        kinds = {"deit": "DeiTForImageClassification", "levit": "LevitForImageClassification"}
        kind = kinds.get(
            model_type, "AutoModelForImageClassification"
        )  # two heads: transformers has no default
        path = _saved(directory, kind, model_type, sizes)
        settings = {"size": {"height": size, "width": size}, "image_mean": [0.5] * 3, "image_std": [0.2] * 3}
        (path / "preprocessor_config.json").write_text(json.dumps(settings))
        return {"hf": str(path)}, _image_data(directory, size)

    return write


def _other_task(kind: str) -> Callable[[Path], Entry]:
    def write(directory: Path) -> Entry:
        path = _saved(directory, OTHER_TASKS[kind], "bert", SIZES)
        _write_tokenizer(path, SEGMENTS)
        return {"hf": str(path)}, _text_data(directory)

    return write


_DIGITS = {"source": "digits", "train_limit": 200, "test_fraction": 0.06}
_TRAIN = {"epochs": 1, "batch_size": 32, "learning_rate": 3e-3, "precision": "fp32"}
_OWN_SIZES = {"input_dim": 4, "output_dim": 10, "d_model": 32, "nhead": 4, "num_layers": 2}
OWN: dict[str, tuple[str, str, dict[str, Any]]] = {
    "transformer": ("transformer.py", "patch_classifier", {**_OWN_SIZES, "dropout": 0.0, "max_length": 16}),
    "cnn": (
        "cnn.py",
        "patch_classifier",
        {"input_dim": 4, "output_dim": 10, "grid": 4, "widths": [8, 16], "blocks": 1},
    ),
    "lstm": ("rnn.py", "patch_classifier", {"input_dim": 4, "output_dim": 10, "hidden": 16, "cell": "lstm"}),
    "gru": ("rnn.py", "patch_classifier", {"input_dim": 4, "output_dim": 10, "hidden": 16, "cell": "gru"}),
}

# Modules as users write them, of [b, 16, 4] to [b, 10].
_MODULES = {
    "torch-encoder": """
        self.read = nn.Linear(4, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.answer = nn.Linear(32, 10)
    def forward(self, features):
        return self.answer(self.body(self.read(features)).mean(1))""",
    "multihead": """
        self.read, self.norm = nn.Linear(4, 32), nn.LayerNorm(32)
        self.body = nn.MultiheadAttention(32, 4, batch_first=True)
        self.answer = nn.Linear(32, 10)
    def forward(self, features):
        x = self.read(features)
        return self.answer(self.norm(x + self.body(x, x, x, need_weights=False)[0]).mean(1))""",
    "weight-norm": """
        norm = nn.utils.parametrizations.weight_norm
        self.body = nn.Sequential(norm(nn.Linear(4, 32)), nn.ReLU(), norm(nn.Linear(32, 32)), nn.ReLU())
        self.answer = nn.Linear(32, 10)
    def forward(self, features):
        return self.answer(self.body(features.mean(1)))""",
    "spectral-norm": """
        norm = nn.utils.parametrizations.spectral_norm
        self.body = nn.Sequential(norm(nn.Linear(4, 32)), nn.ReLU())
        self.answer = nn.Linear(32, 10)
    def forward(self, features):
        return self.answer(self.body(features.mean(1)))""",
    "old-weight-norm": """
        self.body = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 32)), nn.ReLU())
        self.answer = nn.Linear(32, 10)
    def forward(self, features):
        return self.answer(self.body(features.mean(1)))""",
    "bare-parameter": """
        self.weight = nn.Parameter(torch.randn(32, 4) / 2)
        self.answer = nn.Linear(32, 10)
    def forward(self, features):
        return self.answer(torch.einsum("bi,oi->bo", features.mean(1), self.weight).relu())""",
    "one-input": """
        self.each, self.answer = nn.Linear(1, 8), nn.Linear(8, 10)
    def forward(self, features):
        return self.answer(self.each(features.mean(2, keepdim=True)).relu().mean(1))""",
    "one-output": """
        self.score, self.answer = nn.Linear(4, 1), nn.Linear(1, 10)
    def forward(self, features):
        return self.answer(self.score(features).mean(1))""",
    "fixed-length": """
        self.body, self.answer = nn.Linear(64, 32), nn.Linear(32, 10)
    def forward(self, features):
        return self.answer(self.body(features.flatten(1)).relu())""",
    "conv1d": """
        self.conv, self.norm = nn.Conv1d(4, 16, 3, padding=1), nn.BatchNorm1d(16)
        self.answer = nn.Linear(16, 10)
    def forward(self, features):
        return self.answer(self.norm(self.conv(features.transpose(1, 2))).relu().mean(-1))""",
    "conv-transpose": """
        self.up, self.answer = nn.ConvTranspose1d(4, 16, 3, padding=1), nn.Linear(16, 10)
    def forward(self, features):
        return self.answer(self.up(features.transpose(1, 2)).relu().mean(-1))""",
    "bidirectional-lstm": """
        self.body = nn.LSTM(4, 16, num_layers=2, bidirectional=True, batch_first=True)
        self.answer = nn.Linear(32, 10)
    def forward(self, features):
        return self.answer(self.body(features)[0].mean(1))""",
    "branch-on-length": """
        self.short, self.long = nn.Linear(4, 10), nn.Linear(4, 10)
    def forward(self, features):
        if features.shape[1] <= 12:
            return self.short(features).mean(1)
        return self.long(features).mean(1)""",
    "active-dropout": """
        self.body, self.answer = nn.Linear(4, 32), nn.Linear(32, 10)
    def forward(self, features):
        return self.answer(F.dropout(self.body(features.mean(1)), 0.5, training=True))""",
    "lazy": """
        self.body, self.answer = nn.LazyLinear(32), nn.Linear(32, 10)
    def forward(self, features):
        return self.answer(self.body(features.mean(1)).relu())""",
    "bilinear": """
        self.read, self.both, self.answer = nn.Linear(4, 8), nn.Bilinear(8, 8, 16), nn.Linear(16, 10)
    def forward(self, features):
        x = self.read(features.mean(1))
        return self.answer(self.both(x, x).relu())""",
    "shared-linear": """
        self.read, self.body, self.answer = nn.Linear(4, 32), nn.Linear(32, 32), nn.Linear(32, 10)
    def forward(self, features):
        x = self.read(features.mean(1)).relu()
        return self.answer(self.body(self.body(x).relu()).relu())""",
    "dead-batch-norm": """
        self.conv, self.norm, self.answer = nn.Conv1d(4, 16, 3), nn.BatchNorm1d(16), nn.Linear(16, 10)
        self.norm.weight.data[3] = 0
        self.norm.running_var[5] = 0
    def forward(self, features):
        return self.answer(self.norm(self.conv(features.transpose(1, 2))).relu().mean(-1))""",
}


def _own_family(name: str) -> Callable[[Path], Entry]:
    def write(directory: Path) -> Entry:
        file, builder, args = OWN[name]
        model = {"file": str(ROOT / "models" / file), "builder": builder, "args": args, "train": _TRAIN}
        return model, _DIGITS

    return write


def _module_family(name: str) -> Callable[[Path], Entry]:
    def write(directory: Path) -> Entry:
        head = (
            "import torch\nimport torch.nn.functional as F\nfrom torch import nn\n\n\nclass Model(nn.Module):"
        )
        text = f"{head}\n    def __init__(self):\n        super().__init__(){_MODULES[name]}\n\n\n"
        (directory / "model.py").write_text(f"{text}def build():\n    return Model()\n")
        model = {"file": str(directory / "model.py"), "builder": "build", "args": {}, "train": _TRAIN}
        return model, _DIGITS

    return write


def _own_decoder(directory: Path) -> Entry:
    args = {"input_dim": 257, "d_model": 32, "nhead": 4, "num_layers": 2, "dropout": 0.0, "max_length": 64}
    model = {
        "file": str(ROOT / "models" / "transformer.py"),
        "builder": "causal_lm",
        "args": args,
        "tokenizer": "bytes",
        "train": _TRAIN,
    }
    return model, _corpus_data(directory)


FAMILIES: dict[str, Callable[[Path], Entry]] = {
    **{f"text/{name}": _text_family(name) for name in TEXT},
    "text/bert-left-padded": _text_family("bert", side="left"),
    "text/gpt2-left-padded": _text_family("gpt2", side="left"),
    **{f"decoder/{name}": _decoder_family(name) for name in DECODERS},
    **{f"image/{name}": _image_family(name) for name in IMAGES},
    **{f"other/{name}": _other_task(name) for name in OTHER_TASKS},
    **{f"own/{name}": _own_family(name) for name in OWN},
    "own/decoder": _own_decoder,
    **{f"module/{name}": _module_family(name) for name in _MODULES},
}
