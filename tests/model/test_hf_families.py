"""Families of transformers: inputs are those that their tokenizers give, and lengths those that they take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from compress.data import from_arrays
from compress.data.past import empty_past, past_of_present
from compress.errors import ModelError, ParityError
from compress.export import export_onnx
from compress.model import LoadedModel, ModelConfig, load_model
from compress.model.decoder_cache import CachedDecoder, context_length
from compress.model.limits import lengths_of_change, switch_length, token_limit
from compress.pipeline import export_model
from compress.registry import stage_class
from compress.stage import Context

from ..hf_families import FAMILIES, SIZES, WORDS, Family, write_family

# Of each kind one: token types, positions behind padding, no SDPA, local attention, the last token answers.
QUICK = ("bert", "mpnet", "modernbert", "gpt2, padded on the left")
DECODERS = ("gpt2", "llama", "mistral", "qwen2", "gemma2")


def _marked(quick: tuple[str, ...], names: Any) -> list[Any]:
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


def _load(directory: Path, scratch: Path, **more: Any) -> LoadedModel:
    scratch.mkdir(exist_ok=True)
    return load_model(ModelConfig.model_validate({"hf": str(directory)}), seed=0, scratch=scratch, **more)


def _texts(lengths: list[int]) -> list[str]:
    draw = np.random.default_rng(0)
    return [" ".join(draw.choice(WORDS, length)) for length in lengths]


@pytest.mark.parametrize("name", FAMILIES)
def test_inputs_are_those_that_the_tokenizer_gives(name: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    directory = write_family(tmp_path / "model", FAMILIES[name])
    loaded = _load(directory, tmp_path / "scratch")
    assert set(loaded.text_inputs) == set(AutoTokenizer.from_pretrained(directory)("a good film"))
    if FAMILIES[name].model_type == "gpt2":
        assert loaded.text_inputs == ("input_ids", "attention_mask")


@pytest.mark.parametrize("name", _marked(QUICK, FAMILIES))
def test_a_file_answers_what_the_tokenizer_gives_as_transformers_does(name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    directory = write_family(tmp_path / "model", FAMILIES[name])
    export_model(directory, tmp_path / "out", max_length=24)
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "onnx" / "model.onnx"))
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    assert tokenizer.padding_side == FAMILIES[name].settings.get("padding_side", "right")
    for lengths in ([3, 9, 20, 1], [6, 6], [5], [20], [1]):
        batch = tokenizer(_texts(lengths), padding=True, return_tensors="pt")
        assert {each.name for each in session.get_inputs()} == set(batch)
        with torch.no_grad():
            wanted = model(**batch).logits.numpy()
        (found,) = session.run(None, {key: value.numpy() for key, value in batch.items()})
        # Two implementations of the same fp32 sums.
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(
    "settings", [{"share_att_key": True, "conv_kernel_size": 3}, {"share_att_key": False}]
)
def test_deberta_answers_alike_on_both_sides_of_each_bucket(settings: dict[str, Any], tmp_path: Path) -> None:
    """Of 8 buckets 4 are of single distances, the others of 5 to 8, 9 to 16 ..."""
    from transformers import AutoModelForSequenceClassification

    directory = write_family(tmp_path / "model", FAMILIES["deberta-v2"], **settings)
    export_model(directory, tmp_path / "out", max_length=36)
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "onnx" / "model.onnx"))
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    draw = torch.Generator().manual_seed(0)
    for length in (4, 5, 8, 9, 16, 17, 32, 33, 36):
        ids = torch.randint(5, 18, (2, length), generator=draw)
        mask = torch.ones_like(ids)
        mask[1, length // 2 :] = 0
        batch = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": mask}
        with torch.no_grad():
            wanted = model(**batch).logits.numpy()
        (found,) = session.run(None, {key: value.numpy() for key, value in batch.items()})
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


def test_the_first_deberta_is_not_taken_for_the_second(tmp_path: Path) -> None:
    sizes = {**SIZES, "type_vocab_size": 0, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
    directory = write_family(tmp_path / "model", Family("deberta", "bert", sizes))
    assert export_model(directory, tmp_path / "out", max_length=12)["agreement"] == 1


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("deberta-v2", "modernbert")])
def test_the_limit_of_a_family_is_the_longest_row_that_it_answers(name: str, tmp_path: Path) -> None:
    model = _load(write_family(tmp_path / "model", FAMILIES[name]), tmp_path / "scratch").module
    limit = token_limit(model)
    learned = any("position_embeddings" in each or "wpe" in each for each in model.state_dict())
    behind_padding = learned and FAMILIES[name].tokenizer == "roberta"
    assert limit == (38 if behind_padding else 40)
    with torch.no_grad():
        model(input_ids=torch.full((1, limit), 7))
        if learned:  # rotary positions never end
            with pytest.raises((IndexError, RuntimeError)):
                model(input_ids=torch.full((1, limit + 1), 7))


def test_lengths_of_change_are_beyond_windows_and_buckets_and_no_longer_than_a_row(tmp_path: Path) -> None:
    wanted = {"mistral": (7, 13), "modernbert": (7, 13), "deberta-v2": (9, 17), "bert": (), "llama": ()}
    for name, lengths in wanted.items():
        model = _load(write_family(tmp_path / name, FAMILIES[name]), tmp_path / "scratch").module
        assert lengths_of_change(model, 40) == lengths
    assert lengths_of_change(model, 5) == ()
    windowed = _load(tmp_path / "mistral", tmp_path / "scratch").module
    assert lengths_of_change(windowed, 10) == (7, 10) and lengths_of_change(windowed, 6) == ()
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    rope |= {"original_max_position_embeddings": 20, "rope_theta": 10_000.0}
    scaled = write_family(tmp_path / "longrope", FAMILIES["llama"], rope_parameters=rope)
    module = _load(scaled, tmp_path / "scratch").module
    assert (token_limit(module), switch_length(module), switch_length(model)) == (40, 20, None)
    assert lengths_of_change(module, 40) == (21, 40)
    del module.get_submodule("model.rotary_emb").long_frequencies
    assert token_limit(module) == 20  # a module that doesn't choose


def test_a_context_ends_where_a_change_is_too_long_to_be_proven(tmp_path: Path) -> None:
    for window, context in ((4_095, 10_000), (4_096, 4_096), (20_000, 10_000)):
        sizes = {"sliding_window": window, "max_position_embeddings": 10_000}
        directory = write_family(tmp_path / str(window), FAMILIES["mistral"], decoder=True, **sizes)
        loaded = _load(directory, tmp_path / "scratch", task="language-modelling")
        assert context_length(loaded.module) == context


@pytest.mark.parametrize("name", (*DECODERS, "qwen3", "gemma3_text", "gpt_neox", "olmo2", "phi3", "smollm3"))
def test_a_decoder_sees_through_its_windows_whole_in_parts_and_padded(name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    directory = write_family(tmp_path / "model", FAMILIES[name], decoder=True)
    loaded = _load(directory, tmp_path / "scratch", task="language-modelling")
    cached = CachedDecoder(loaded.module).eval()
    ids = torch.randint(4, 18, (1, 30), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    left = torch.cat([torch.full((1, 6), 3), ids], 1), torch.cat([0 * mask[:, :6], mask], 1)
    with torch.no_grad():
        reference = AutoModelForCausalLM.from_pretrained(directory).eval()
        wanted = reference(input_ids=ids, attention_mask=mask).logits
        whole, *_ = cached(ids, mask)
        first, *past = cached(ids[:, :17], mask[:, :17])
        rest, *_ = cached(ids[:, 17:], mask, *past)
        padded, *_ = cached(*left)
    scale = 1e-4 * float(wanted.abs().max())
    torch.testing.assert_close(whole, wanted, rtol=1e-4, atol=scale)
    torch.testing.assert_close(torch.cat([first, rest], 1), wanted, rtol=1e-4, atol=scale)
    torch.testing.assert_close(padded[:, 6:], wanted, rtol=1e-4, atol=scale)


@pytest.mark.parametrize("name", _marked(("mistral",), DECODERS))
def test_the_file_of_a_decoder_has_its_windows_and_takes_padding_on_the_left(
    name: str, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    directory = write_family(tmp_path / "model", FAMILIES[name], decoder=True)
    export_model(directory, tmp_path / "out", max_length=4)  # shorter than any window
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "onnx" / "model.onnx"))
    names = [value.name for value in session.get_outputs()]

    def answer(ids: torch.Tensor, mask: torch.Tensor, past: Any = None) -> tuple[np.ndarray, Any]:
        past = empty_past(session.get_inputs(), len(ids)) if past is None else past
        outputs = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy(), **past})
        found = dict(zip(names, outputs, strict=True))
        return found["logits"], past_of_present(found)

    ids = torch.randint(4, 18, (2, 30), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :6] = 0
    reference = AutoModelForCausalLM.from_pretrained(directory).eval()
    with torch.no_grad():
        alone = reference(input_ids=ids[:1, 6:]).logits[0].numpy()
        other = reference(input_ids=ids[1:]).logits[0].numpy()
    whole, _ = answer(ids, mask)
    first, past = answer(ids[:, :20], mask[:, :20])
    rest, _ = answer(ids[:, 20:], mask, past)
    for found in (whole, np.concatenate([first, rest], 1)):
        np.testing.assert_allclose(found[0, 6:], alone, rtol=1e-3, atol=1e-3 * np.abs(alone).max())
        np.testing.assert_allclose(found[1], other, rtol=1e-3, atol=1e-3 * np.abs(other).max())


def test_a_file_without_the_window_is_refused_though_all_rows_are_shorter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write_family(tmp_path / "model", FAMILIES["mistral"], decoder=True, num_hidden_layers=1)
    monkeypatch.setattr("compress.model.decoder_cache._windows_of", lambda module: None)
    with pytest.raises(ParityError):
        export_model(directory, tmp_path / "out", max_length=4)
    assert not (tmp_path / "out").exists()


def test_what_is_no_decoder_is_refused(tmp_path: Path) -> None:
    directory = write_family(tmp_path / "model", FAMILIES["bert"], decoder=True)
    with pytest.raises(ModelError, match="decoder"):
        export_model(directory, tmp_path / "out", max_length=8)


def test_a_decoder_that_makes_its_own_mask_is_exported(tmp_path: Path) -> None:
    bloom = Family("bloom", "decoder", {"hidden_size": 32, "n_layer": 1, "n_head": 4})
    directory = write_family(tmp_path / "model", bloom, decoder=True)
    assert export_model(directory, tmp_path / "out", max_length=8)["agreement"] == 1


def test_layers_that_are_shared_are_stored_once_in_fp32_and_int8(tmp_path: Path) -> None:
    """ALBERT: six calls of a layer take no more weights than two."""
    draw = np.random.default_rng(0)
    parts = []
    for _ in range(2):
        ids = [draw.integers(5, 18, length) for length in (3, 9, 5, 12, 7, 8)]
        masks = [np.ones_like(each) for each in ids]
        parts.append({"input_ids": ids, "attention_mask": masks, "labels": [0, 1, 2] * 2})
    splits = from_arrays(*parts)
    numbers: dict[str, list[int]] = {}
    for layers in (2, 6):
        directory = write_family(tmp_path / f"{layers}", FAMILIES["albert"], num_hidden_layers=layers)
        plain = _load(directory, tmp_path / "scratch").module.eval()
        context = Context(splits.task, splits.train, splits.validation)
        rounded = stage_class("quantize/int8_dynamic")().apply(plain, context).model
        for name, module in (("fp32", plain), ("int8", rounded)):
            path = export_onnx(module, splits.validation, splits.task, tmp_path / f"{name}.onnx")
            kept = onnx.load(path).graph.initializer
            numbers.setdefault(name, []).append(sum(len(each.raw_data) for each in kept if each.dims))
    for two, six in numbers.values():
        assert 0 < two <= six < 1.02 * two
    assert numbers["int8"][0] < numbers["fp32"][0] / 2
