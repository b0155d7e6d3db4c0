"""Language models that people serve: what their files answer and write is what transformers does."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from compress.data import from_arrays
from compress.data.past import empty_past
from compress.deploy.generate import Writer, Written
from compress.errors import ModelError
from compress.model import (
    LoadedModel,
    ModelConfig,
    keep_units_,
    load_model,
    load_module,
    save_module,
    structure_of,
)
from compress.model.cutting.depth import keep_layers_
from compress.model.cutting.vocabulary import keep_tokens_, token_embedding, token_table
from compress.model.cutting.width import hidden_width, keep_features_, own_size_
from compress.model.decoder_cache import CachedDecoder
from compress.model.forward import logits
from compress.model.layers.embedding import FactorizedEmbedding
from compress.model.limits import switch_length
from compress.pipeline import export_model
from compress.registry import stage_class
from compress.stage import Context
from compress.tasks import TaskName

from ..hf_families import FAMILIES, WORDS, write_family
from ..sentence_folders import write_sentence_folder

NAMES = [name for name, each in FAMILIES.items() if each.tokenizer == "decoder" and "on the left" not in name]
QUICK = "phi3, longrope"  # windows are in test_hf_families.py
TIED = {"tie_word_embeddings": True}


def _load(directory: Path, scratch: Path, task: TaskName = "language-modelling") -> LoadedModel:
    scratch.mkdir(exist_ok=True)
    config = ModelConfig.model_validate({"hf": str(directory)})
    return load_model(config, seed=0, scratch=scratch, task=task)


def _reference(directory: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    model.generation_config.eos_token_id = None
    return model


def _written_by_transformers(model: Any, prompt: torch.Tensor, count: int) -> list[int]:
    mask = torch.ones_like(prompt)
    found = model.generate(prompt, attention_mask=mask, max_new_tokens=count, do_sample=False)
    return list(found[0, prompt.shape[1] :].tolist())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_token_after_token_a_decoder_writes_what_transformers_writes(
    name: str, tied: bool, tmp_path: Path
) -> None:
    directory = write_family(tmp_path / "model", FAMILIES[name], decoder=True, tie_word_embeddings=tied)
    cached = CachedDecoder(_load(directory, tmp_path / "scratch").module).eval()
    reference = _reference(directory)
    tied_ones = [reference.lm_head.weight is reference.get_input_embeddings().weight]
    tied_ones += [cached.module.lm_head.weight is cached.module.get_input_embeddings().weight]  # type: ignore[union-attr, operator]
    assert tied_ones == [tied, tied]
    prompt = torch.tensor([[5, 9, 14]])
    switch = switch_length(cached.module)
    assert (switch is not None) == (name == "phi3, longrope")
    ids, new, past = prompt, prompt, []
    with torch.no_grad():
        while ids.shape[1] < 33:  # beyond windows of 6 and, for longrope, the first 20 tokens
            answer, *past = cached(new, torch.ones_like(ids), *past)
            new = answer[:, -1:].argmax(-1)
            ids = torch.cat([ids, new], 1)
            if ids.shape[1] - 1 == switch:
                new, past = ids, []
    assert ids[0, 3:].tolist() == _written_by_transformers(reference, prompt, 30)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == QUICK else pytest.mark.slow) for name in NAMES]
)
def test_the_file_of_a_decoder_answers_and_writes_as_transformers(name: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tied = TIED if name in (QUICK, "gemma3_text") else {}
    directory = write_family(tmp_path / "model", FAMILIES[name], decoder=True, **tied)
    export_model(directory, tmp_path / "out", max_length=4)
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "onnx" / "model.onnx"))
    reference = _reference(directory)
    for length in (1, 2, 17, 21, 39):
        ids = torch.randint(4, 18, (2, length), generator=torch.Generator().manual_seed(length))
        feed = {"input_ids": ids.numpy(), "attention_mask": np.ones_like(ids.numpy())}
        found = session.run(["logits"], feed | empty_past(session.get_inputs(), 2))[0]
        with torch.no_grad():
            wanted = reference(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.numpy()
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())
    text = " ".join(WORDS[:3])
    prompt = AutoTokenizer.from_pretrained(directory)(text, return_tensors="pt").input_ids
    writer, written = Writer(tmp_path / "out"), Written()
    assert writer.context == 40
    writer.end_ids = frozenset()
    list(writer.write(text, most=30, written=written))
    assert written.ids == _written_by_transformers(reference, prompt, 30)


def _padded_rows() -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """A row, and the same row beside a longer one, padded on the right and on the left."""
    row, longer, pad = torch.tensor([[5, 9, 14, 7]]), torch.arange(4, 16)[None], torch.full((1, 8), 3)
    ones, none = torch.ones_like(row), torch.zeros_like(pad)
    ids = [torch.cat([torch.cat(pair, 1), longer]) for pair in ((row, pad), (pad, row))]
    masks = [
        torch.cat([torch.cat(pair, 1), torch.ones_like(longer)]) for pair in ((ones, none), (none, ones))
    ]
    return row, list(zip(ids, masks, strict=True))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "gpt2"])  # whose positions are absolute
def test_a_classifier_reads_the_last_token_that_is_no_padding_on_either_side(
    name: str, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    directory = write_family(tmp_path / "model", FAMILIES[name])
    module = _load(directory, tmp_path / "scratch", "classification").module.eval()
    reference = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    row, batches = _padded_rows()
    with torch.no_grad():
        alone = module(input_ids=row, attention_mask=torch.ones_like(row)).logits[0]
        for ids, mask in batches:
            found = module(input_ids=ids, attention_mask=mask).logits
            wanted = reference(input_ids=ids, attention_mask=mask).logits
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found[0], alone, rtol=1e-3, atol=1e-4)


def test_a_classifier_without_a_pad_token_is_refused_with_the_token_to_set(tmp_path: Path) -> None:
    for name in ("llama", "qwen3"):
        directory = write_family(tmp_path / name, FAMILIES[name], pad_token_id=None)
        with pytest.raises(ModelError, match="pad_token_id in config.json of .* to 3"):
            _load(directory, tmp_path / "scratch", "classification")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("llama", {}),
        ("qwen2", {}),
        ("qwen3", {}),
        ("gemma3_text", {}),
        ("gemma3_text", {"use_bidirectional_attention": True}),
    ],
)
def test_an_embedder_pools_the_last_token_on_either_side(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    from transformers import AutoModel

    folder = write_sentence_folder(tmp_path / "st", family=name, pooling="lasttoken", sizes=settings)
    module = _load(folder, tmp_path / "scratch", "embedding").module.eval()
    row, batches = _padded_rows()
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder).eval()(row, torch.ones_like(row)).last_hidden_state
        wanted = torch.nn.functional.normalize(states[0, -1], dim=0)
        torch.testing.assert_close(
            module(row, torch.ones_like(row)).sentence_embedding[0], wanted, rtol=1e-4, atol=1e-5
        )
        for ids, mask in batches:
            found = module(ids, mask).sentence_embedding[0]
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_a_decoder_whose_tokens_see_later_ones_is_no_language_model(tmp_path: Path) -> None:
    sizes = {"use_bidirectional_attention": True}
    directory = write_family(tmp_path / "model", FAMILIES["gemma3_text"], decoder=True, **sizes)
    with pytest.raises(ModelError, match="use_bidirectional_attention"):
        CachedDecoder(_load(directory, tmp_path / "scratch").module)


def test_with_longrope_a_row_has_the_frequencies_of_its_own_length(tmp_path: Path) -> None:
    directory = write_family(tmp_path / "model", FAMILIES["phi3, longrope"], decoder=True)
    cached = CachedDecoder(_load(directory, tmp_path / "scratch").module).eval()
    reference = _reference(directory)
    ids = torch.randint(4, 18, (2, 30), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :12] = 0
    with torch.no_grad():
        found, *_ = cached(ids, mask)
        for answers, row in ((found[0, 12:], ids[:1, 12:]), (found[1], ids[1:])):
            wanted = reference(input_ids=row, attention_mask=torch.ones_like(row)).logits[0]
            torch.testing.assert_close(answers, wanted, rtol=1e-4, atol=1e-4)


def test_a_scaled_table_of_tokens_is_cut_factorized_and_quantized_as_a_plain_one(tmp_path: Path) -> None:
    directory = write_family(tmp_path / "model", FAMILIES["gemma3_text"])
    module = _load(directory, tmp_path / "scratch", "classification").module.eval()
    rows = {"input_ids": torch.tensor([[5, 9, 10, 7]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    with torch.no_grad():
        before = logits(module, rows)
        path, table = token_embedding(module)
        whole = FactorizedEmbedding(18, 18, 32, padding_idx=3)
        whole.table.weight.copy_(torch.eye(18))
        whole.projection.weight.copy_(token_table(table).weight.T)
        factorized = copy.deepcopy(module)
        factorized.set_submodule(path, whole)
        torch.testing.assert_close(logits(factorized, rows), before, rtol=1e-4, atol=1e-5)
        keep_tokens_(module, range(11))
        torch.testing.assert_close(logits(module, rows), before, rtol=1e-4, atol=1e-5)
        columns = {key: [value[0].numpy()] * 3 for key, value in rows.items()} | {"labels": np.arange(3)}
        made = from_arrays(columns, {**columns, "input_ids": [np.array([4, 6, 8, 5])] * 3})
        context = Context(made.task, made.train, made.validation)
        integers = stage_class("quantize/int8_weight_only")().apply(module, context).model
        error = float((logits(integers, rows) - before).abs().max() / before.abs().max())
    assert type(integers.get_submodule(path)).__name__ == "Int8Embedding" and 0 < error < 0.1


@pytest.mark.parametrize("name", ["qwen3", "gemma3_text"])
def test_an_embedder_from_a_decoder_is_cut(name: str, tmp_path: Path) -> None:
    folder = write_sentence_folder(tmp_path / "st", family=name, pooling="lasttoken")
    module = _load(folder, tmp_path / "scratch", "embedding").module.eval()
    own_size_(module)
    before = hidden_width(module)
    keep_features_(module, range(16))
    keep_units_(module, structure_of(module).attention[0], [1])
    keep_layers_(module, [0])
    row = torch.tensor([[5, 9, 14, 7]])
    with torch.no_grad():
        found = module(row, torch.ones_like(row)).sentence_embedding
        save_module(module, tmp_path)
        again = load_module(tmp_path)(row, torch.ones_like(row)).sentence_embedding
    assert (before, hidden_width(module), found.shape) == (32, 16, (1, 32))
    assert torch.equal(found, again) and found.isfinite().all()
