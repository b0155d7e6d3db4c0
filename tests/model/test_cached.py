"""Keys and values as tensors: a text read in parts is answered as when it is read whole."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress.data import Splits, StdlibData, TextEncoder, load_splits
from compress.data.readers.byte_tokenizer import write_byte_tokenizer
from compress.errors import ModelError
from compress.model.cutting.depth import keep_layers_
from compress.model.cutting.units import keep_units_
from compress.model.decoder_cache import CachedDecoder, CacheLayer, KeyValues, cache_layers
from compress.model.files.definition import Definition
from compress.model.files.save import load_module, save_module
from compress.model.structure.find import structure_of
from compress.registry import stage_class
from compress.stage import Context

from ..conftest import TRANSFORMER

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "vocab_size": 50, "max_position_embeddings": 64}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {**SIZES, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2},
    "qwen2": {**SIZES, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 50, "n_positions": 64},
}
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}


def decoder(kind: str, vocabulary: int = 50) -> nn.Module:
    """A tiny decoder: ours (`rope`, `learned`, `sinusoidal` positions) or of transformers."""
    if kind in SHAPES:
        args = {"model_type": kind, **SHAPES[kind], **IDS, "vocab_size": vocabulary}
        return Definition("hf", args, head="language-modelling").build(seed=0)
    args = {
        "input_dim": vocabulary,
        "d_model": 32,
        "nhead": 4,
        "num_layers": 3,
        "positions": kind,
        "max_length": 64,
    }
    return Definition.from_file(TRANSFORMER, "causal_lm", args).build(seed=0)


KINDS = ("rope", "learned", "sinusoidal", *SHAPES)


def _read_in(parts: tuple[int, ...], model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    cached, answers = CachedDecoder(model), []
    past: list[torch.Tensor] = []
    start = 0
    with torch.no_grad():
        for size in parts:
            mask = torch.ones(len(ids), start + size, dtype=torch.long)
            answer, *past = cached(ids[:, start : start + size], mask, *past)
            answers.append(answer)
            start += size
    return torch.cat(answers, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_answered_as_the_whole(kind: str) -> None:
    model = decoder(kind)
    ids = torch.randint(3, 50, (2, 11), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answer = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    whole = answer if isinstance(answer, torch.Tensor) else answer.logits
    for parts in ((11,), (7, 4), (5, 1, 1, 4)):
        torch.testing.assert_close(_read_in(parts, model, ids), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_and_groups_may_go(kind: str) -> None:
    model = decoder(kind)
    keep_layers_(model, [0, 2])
    for site in structure_of(model).attention[:1]:
        keep_units_(model, site, range(site.units(model) - 1))
    ids = torch.randint(3, 50, (1, 9), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(_read_in((4, 5), model, ids), _read_in((9,), model, ids), rtol=1e-4, atol=1e-5)
    layers = cache_layers(model)
    assert len(layers) == 2 and layers[1].head_size == 8
    assert layers[0].heads == layers[1].heads - 1


def test_layers_that_stay_find_their_places_in_a_cache_of_transformers() -> None:
    model = decoder("llama")
    keep_layers_(model, [0, 2])
    cache = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        whole = model(input_ids=ids, use_cache=False).logits
        first = model(input_ids=ids[:, :5], use_cache=True)
        rest = model(input_ids=ids[:, 5:], **{cache: first[cache]}).logits
    torch.testing.assert_close(torch.cat((first.logits, rest), 1), whole, rtol=1e-4, atol=1e-5)


STAGES: list[tuple[str, dict[str, Any]]] = [
    ("prune/heads", {"sparsity": 0.5}),
    ("prune/structured", {"macs": 0.7, "importance": "fisher", "search_steps": 2}),
    ("prune/layers", {"layers": 1}),
    ("prune/magnitude", {"sparsity": 0.5}),
    ("quantize/int8_dynamic", {"smooth": "smoothquant"}),
    ("quantize/int8_static", {}),
    ("quantize/int4_weight_only", {"algorithm": "gptq", "bias_correction": True}),
    ("distill/student", {"student": {"layers": 1, "keep": "best"}}),
]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    encoder = TextEncoder.from_directory(write_byte_tokenizer(tmp_path_factory.mktemp("bytes")))
    data = StdlibData(train_bytes=10_000, train_limit=16, max_length=16, validation_limit=16, test_limit=2)
    return load_splits(data, reader=encoder)


@pytest.mark.parametrize("kind", ["rope", "llama", "gpt2"])
@pytest.mark.parametrize(("name", "settings"), STAGES, ids=[name for name, _ in STAGES])
def test_a_stage_takes_a_decoder(name: str, settings: dict[str, Any], kind: str, texts: Splits) -> None:
    if name == "prune/structured":
        settings = {**settings, "calibration_rows": 16, "search_rows": 16}
    training = {"epochs": 1, "batch_size": 16, "precision": "fp32"}
    settings = {**settings, "train": training} if name.startswith("distill") else settings
    model = decoder(kind, vocabulary=257)
    context = Context(texts.task, texts.train, texts.validation, teacher=model)
    made = stage_class(name).model_validate(settings).apply(model, context).model
    ids = torch.arange(3, 12)[None]
    torch.testing.assert_close(_read_in((4, 5), made, ids), _read_in((9,), made, ids), rtol=1e-3, atol=1e-3)


def test_a_group_of_queries_goes_with_its_keys_and_values() -> None:
    model = decoder("llama")
    first, second = structure_of(model).sites[:2]
    assert (first.kind, first.units(model), first.unit_size) == ("attention", 2, 16)
    assert [each.rows for each in first.producers] == [16, 8, 8]
    assert (second.kind, second.units(model), len(second.producers)) == ("feed_forward", 48, 2)
    with torch.no_grad():  # the second group says nothing: without it the answer is the same
        model.get_submodule(first.consumer).weight[:, 16:] = 0
        ids = torch.arange(3, 12)[None]
        before = model(input_ids=ids).logits
        keep_units_(model, first, [0])
        torch.testing.assert_close(model(input_ids=ids).logits, before)


def test_gpt2_s_heads_go_from_the_one_projection_that_makes_them_and_stay_away(tmp_path: Path) -> None:
    model = decoder("gpt2")
    first, second = structure_of(model).sites[:2]
    assert (first.kind, first.units(model), first.producers[0].parts) == ("attention", 4, (8, 8, 8))
    assert second.kind == "feed_forward"
    with torch.no_grad():  # two heads say nothing: without them the answer is the same
        model.get_submodule(first.consumer).weight[:, 8:24] = 0
        ids = torch.arange(3, 12)[None]
        before = model(input_ids=ids).logits
        cut = copy.deepcopy(model)
        keep_units_(cut, first, [0, 3])
        torch.testing.assert_close(cut(input_ids=ids).logits, before)
        save_module(cut, tmp_path)
        again = load_module(tmp_path)
        torch.testing.assert_close(again(input_ids=ids).logits, before)
        torch.testing.assert_close(model(input_ids=ids).logits, before)
    assert cache_layers(again) == (CacheLayer(2, 8), CacheLayer(4, 8), CacheLayer(4, 8))
    assert [site.units(again) for site in structure_of(again).attention] == [2, 4, 4]


def test_left_out_padding_changes_no_answer() -> None:
    model = decoder("llama")
    ids = torch.tensor([[7, 7, 5, 6, 9]])
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    with torch.no_grad():
        padded, *_ = CachedDecoder(model)(ids, mask)
        alone, *_ = CachedDecoder(model)(ids[:, 2:], mask[:, 2:])
    torch.testing.assert_close(padded[:, 2:], alone, rtol=1e-4, atol=1e-5)


def test_what_a_token_keeps_is_counted() -> None:
    assert cache_layers(decoder("llama")) == (CacheLayer(2, 8),) * 3
    assert CacheLayer(2, 8).numbers_per_token == 32
    assert KeyValues().get_seq_length() == 0


class _NoCache(nn.Module):
    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return input_ids


class _NeverAsks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)

    def forward(self, input_ids: torch.Tensor, attention_mask: Any, past_key_values: Any) -> torch.Tensor:
        return self.table(input_ids)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (_NoCache(), r"_NoCache\.forward\(\) takes no past_key_values"),
        (_NeverAsks(), "never calls its update"),
    ],
)
def test_a_module_without_a_cache_is_told_how(module: nn.Module, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        cache_layers(module)


class _OneLinear(nn.Module):
    """A decoder of an embedding and a linear layer: quantized, it has no parameter left."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(257, 32), nn.Linear(32, 257)

    def forward(self, input_ids: torch.Tensor, attention_mask: Any, past_key_values: Any) -> torch.Tensor:
        k, _ = past_key_values.update(*[self.table(input_ids)[:, None]] * 2, 0)
        return self.head(self.table(input_ids) + k.mean(2))


def test_a_decoder_that_is_quantized_throughout_still_keeps_keys_and_values(texts: Splits) -> None:
    context = Context(texts.task, texts.train, texts.validation)
    made = stage_class("quantize/int4_weight_only")().apply(_OneLinear(), context).model
    assert not list(made.parameters())
    assert cache_layers(made) == (CacheLayer(1, 32),)


@pytest.mark.parametrize(
    ("layers", "heads", "said"),
    [
        (3, 4, "4 heads.*of 8.*layer 0.*2 of.*8"),
        (2, 2, "2 layers.*more"),
        (4, 2, "4 layers.*3"),
    ],
)
def test_keys_and_values_of_another_model_are_refused(layers: int, heads: int, said: str) -> None:
    past = [torch.zeros(1, heads, 5, 8) for _ in range(2 * layers)]
    with pytest.raises(ModelError, match=said):
        CachedDecoder(decoder("llama"))(torch.tensor([[3]]), torch.ones(1, 6, dtype=torch.long), *past)
