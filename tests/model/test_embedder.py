"""Sentence embedders: pooling by hand, directories of sentence-transformers, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from compress.errors import ModelError
from compress.model import ModelConfig, load_model, structure_of
from compress.model.cutting.depth import keep_layers_
from compress.model.cutting.width import keep_features_, own_size_
from compress.model.files.definition import definition_of
from compress.model.files.embedder import Embedded, Embedder
from compress.model.files.load import LoadedModel, task_of
from compress.model.files.save import load_module, save_module
from compress.model.files.sentence_chain import write_chain_
from tests.hf_families import FAMILIES, write_family
from tests.sentence_folders import write_sentence_folder

STATES = torch.tensor([[[1.0, 0.0], [3.0, 2.0], [9.0, 9.0]], [[0.0, 4.0], [2.0, 0.0], [4.0, 2.0]]])
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])
IDS = torch.tensor([[2, 6, 7, 8, 3], [2, 9, 3, 0, 0]])
ATTENDED = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


class _Encoder(nn.Module):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Embedded:
        return Embedded(torch.zeros(2), STATES)  # an object with last_hidden_state


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("mean", [[2.0, 1.0], [2.0, 2.0]]),
        ("cls", [[1.0, 0.0], [0.0, 4.0]]),
        ("max", [[3.0, 2.0], [4.0, 4.0]]),
        ("last", [[3.0, 2.0], [4.0, 2.0]]),
    ],
)
def test_pooling_ignores_padding(pooling: str, expected: list[list[float]]) -> None:
    plain = Embedder(_Encoder(), pooling, normalize=False)
    assert torch.equal(plain(MASK, MASK).sentence_embedding, torch.tensor(expected))
    unit = Embedder(_Encoder(), pooling)(MASK, MASK)
    wanted = nn.functional.normalize(torch.tensor(expected), dim=1)
    assert torch.allclose(unit.sentence_embedding, wanted) and unit.last_hidden_state is STATES


def _loaded(directory: Path, scratch: Path, **settings: object) -> LoadedModel:
    config = ModelConfig.model_validate({"hf": str(directory), **settings})
    return load_model(config, seed=0, scratch=scratch, task="embedding")


def test_a_directory_gives_the_vectors_of_its_whole_chain(tmp_path: Path) -> None:
    import transformers

    folder = write_sentence_folder(
        tmp_path / "st", dense=(16, 8), inner="0_Transformer", prompts={"query": "q"}
    )
    loaded = _loaded(folder, tmp_path)
    encoder = transformers.AutoModel.from_pretrained(folder / "0_Transformer").eval()
    with torch.no_grad():
        states = encoder(input_ids=IDS, attention_mask=ATTENDED).last_hidden_state
        kept = ATTENDED[..., None].float()
        vector = (states * kept).sum(1) / kept.sum(1)
        for name in ("2_Dense", "3_Dense"):
            weights = load_file(folder / name / "model.safetensors")
            vector = torch.tanh(vector @ weights["linear.weight"].T + weights["linear.bias"])
        wanted = vector / vector.norm(dim=1, keepdim=True)
        found = loaded.module(IDS, ATTENDED)
    assert torch.allclose(found.sentence_embedding, wanted, atol=1e-5)
    assert torch.allclose(found.last_hidden_state, states, atol=1e-5)
    assert loaded.longest == 24 and len(loaded.notes) == 1 and "query" in loaded.notes[0]
    assert task_of(ModelConfig(hf=str(folder))) == "embedding"


def test_an_encoder_becomes_an_embedder_by_pooling(tmp_path: Path) -> None:
    folder = write_family(tmp_path / "mpnet", FAMILIES["mpnet"])
    loaded = _loaded(folder, tmp_path, pooling="cls", normalize=False)
    found = loaded.module(IDS, ATTENDED)
    assert torch.equal(found.sentence_embedding, found.last_hidden_state[:, 0])
    assert loaded.text_inputs == ("input_ids", "attention_mask")
    with pytest.raises(ModelError, match="model.pooling"):
        _loaded(folder, tmp_path)
    with pytest.raises(ModelError, match="data.task=embedding"):
        config = ModelConfig.model_validate({"hf": str(folder), "pooling": "cls"})
        load_model(config, seed=0, scratch=tmp_path, task="classification")


def test_what_would_give_wrong_vectors_is_refused_by_name(tmp_path: Path) -> None:
    other = write_sentence_folder(
        tmp_path / "a", others=("sentence_transformers.models.WeightedLayerPooling",)
    )
    with pytest.raises(ModelError, match="WeightedLayerPooling"):
        _loaded(other, tmp_path)
    sqrt = write_sentence_folder(tmp_path / "b", pooling="mean_sqrt_len_tokens")
    with pytest.raises(ModelError, match="mean_sqrt_len_tokens"):
        _loaded(sqrt, tmp_path)
    order = write_sentence_folder(tmp_path / "c", others=("sentence_transformers.models.Dense",))
    with pytest.raises(ModelError, match="Normalize, Dense"):
        _loaded(order, tmp_path)
    pickled = write_sentence_folder(tmp_path / "d", dense=(8,))
    (pickled / "2_Dense/model.safetensors").rename(pickled / "2_Dense/pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin, a pickle"):
        _loaded(pickled, tmp_path)
    plain = write_sentence_folder(tmp_path / "e")
    with pytest.raises(ModelError, match=r"modules\.json"):
        _loaded(plain, tmp_path, pooling="mean")
    (plain / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    with pytest.raises(ModelError, match="do_lower_case"):
        _loaded(plain, tmp_path)


@pytest.fixture
def embedder(tmp_path: Path) -> Embedder:
    module = _loaded(write_sentence_folder(tmp_path / "st"), tmp_path).module
    assert isinstance(module, Embedder)
    return module


def test_a_cut_embedder_is_saved_and_loaded_again(embedder: Embedder, tmp_path: Path) -> None:
    structure = structure_of(embedder)
    assert structure.layers == "encoder.encoder.layer" and len(structure.sites) == 4
    keep_layers_(embedder, [1])
    wanted = embedder(IDS, ATTENDED).sentence_embedding
    own_size_(embedder)
    assert torch.allclose(embedder(IDS, ATTENDED).sentence_embedding, wanted, atol=1e-6)
    keep_features_(embedder, range(16))
    narrow = embedder(IDS, ATTENDED)
    assert narrow.last_hidden_state.shape[-1] == 16 and narrow.sentence_embedding.shape == wanted.shape
    save_module(embedder, tmp_path)
    again = load_module(tmp_path)
    assert torch.equal(again(IDS, ATTENDED).sentence_embedding, narrow.sentence_embedding)
    assert definition_of(again) == definition_of(embedder)


def test_the_chain_is_written_as_it_was_read(tmp_path: Path) -> None:
    folder = write_sentence_folder(
        tmp_path / "st", dense=(16,), prompts={"query": "q: "}, default_prompt_name="query"
    )
    loaded = _loaded(folder, tmp_path)
    copied = tmp_path / "copy"
    copied.mkdir()
    write_chain_(loaded.module, copied, 24)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (copied / name).write_bytes((folder / name).read_bytes())
    again = _loaded(copied, tmp_path)
    given = (IDS, ATTENDED)
    assert torch.equal(again.module(*given).sentence_embedding, loaded.module(*given).sentence_embedding)
    assert definition_of(again.module) == definition_of(loaded.module) and again.longest == 24
    assert json.loads((copied / "config_sentence_transformers.json").read_text())["prompts"]["query"] == "q: "
