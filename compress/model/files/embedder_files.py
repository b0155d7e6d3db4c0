"""Load a sentence embedder: a sentence-transformers directory, or an encoder with `model.pooling`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from compress.errors import ModelError
from compress.model.files.adapted import adapted_
from compress.model.files.config import ModelConfig
from compress.model.files.definition import Definition, attach_definition_, auto_class, pooler_options
from compress.model.files.embedder import Embedder
from compress.model.files.hf.directory import config_json, explained, file_of, settings_of
from compress.model.files.hf.own_code import own_code_note
from compress.model.files.hf.plain_config import plain_config
from compress.model.files.sentence_chain import MODULES_FILE, Chain, read_chain
from compress.model.files.tensors import check_tensors
from compress.tasks.spec import HubHead

__all__ = ["LoadedEmbedder", "check_case", "load_embedder"]


@dataclass(frozen=True)
class LoadedEmbedder:
    """An embedder and where its parts come from.

    Attributes:
        folder: directory or Hub name of the encoder and its tokenizer.
        model_type: of the encoder.
    """

    module: Embedder
    folder: str
    model_type: str
    chain: Chain
    notes: tuple[str, ...]


def load_embedder(config: ModelConfig, head: HubHead) -> LoadedEmbedder:
    """Load the encoder and what follows it.

    Args:
        head: loads the encoder.

    Raises:
        ModelError: a part is missing or not supported; or pooling is given twice, or not at all.
    """
    name = config.hf
    assert name is not None
    chain = _chain(config, name)
    folder = name if not chain.folder else str(Path(name) / chain.folder)
    if chain.folder and not Path(name).is_dir():
        raise ModelError(
            f"{name}: its encoder is in the folder {chain.folder}, which can only be read from a directory; "
            "download the model and set model.hf to its directory"
        )
    given = config_json(folder)
    settings = settings_of(folder, given)
    if getattr(settings, "is_encoder_decoder", False):
        raise ModelError(
            f"{name} is an encoder-decoder ({settings.model_type}); a sentence embedder needs an encoder"
        )
    encoder, found = explained(
        folder,
        auto_class(head.name).from_pretrained,
        folder,
        attn_implementation=None,
        dtype="float32",
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # refused by `check_tensors`
        **pooler_options(head.name, settings),
    )
    check_tensors(folder, encoder, found, has_trained_head=True)
    encoder.config.use_cache = False
    arguments = plain_config(encoder.config)
    module = Embedder(adapted_(encoder), **chain.tail)
    _fill_dense_(name, module, chain)
    attach_definition_(module, Definition("hf", arguments, head=head.name, tail=chain.tail))
    return LoadedEmbedder(
        module.eval(), folder, settings.model_type, chain, chain.notes + own_code_note(given)
    )


def _chain(config: ModelConfig, name: str) -> Chain:
    chain = read_chain(name, partial(file_of, name))
    if chain is not None:
        if config.pooling is not None:
            raise ModelError(f"model.pooling: {name} has {MODULES_FILE}, which says how it pools; omit it")
        return chain
    if config.pooling is None:
        raise ModelError(
            f"{name} has no {MODULES_FILE}, so it does not say how hidden states become a vector; set "
            "model.pooling (mean, cls, max or last) and model.normalize as the model was trained, or give a "
            "sentence-transformers directory",
            see="how-to/embeddings",
        )
    tail: dict[str, Any] = {
        "pooling": config.pooling,
        "dense": [],
        "normalize": config.normalize is not False,
    }
    return Chain("", tail)


def _fill_dense_(name: str, module: Embedder, chain: Chain) -> None:
    if not chain.weights:
        return
    sizes = [int(module.config.hidden_size), *(each["out_features"] for each in chain.tail["dense"])]
    for at, (layer, before) in enumerate(zip(chain.tail["dense"], sizes, strict=False)):
        if layer["in_features"] != before:
            raise ModelError(
                f"{name}: Dense module {at} takes {layer['in_features']} features, but gets {before}"
            )
    found = module.load_state_dict(chain.weights, strict=False)
    lacking = [key for key in found.missing_keys if key.startswith("dense.")]
    if lacking or found.unexpected_keys:
        raise ModelError(
            f"{name}: the weights of a Dense module lack {lacking} or have {found.unexpected_keys}"
        )


def check_case(name: str, tokenizer: Any) -> None:
    """Refuse a model whose texts are made lower case before its tokenizer, unless that does so itself.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.
    """
    if tokenizer.encode("A Good FILM").ids != tokenizer.encode("a good film").ids:
        raise ModelError(
            f"{name}: do_lower_case is true in sentence_bert_config.json, but its tokenizer.json keeps upper "
            "case, so other libraries would read texts differently; add a Lowercase normalizer to "
            "tokenizer.json and set do_lower_case to false"
        )
