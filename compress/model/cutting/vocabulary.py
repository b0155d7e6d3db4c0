"""The vocabulary: find its table, and reduce its rows.

Shapes: v = tokens, m = embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from compress.errors import ModelError
from compress.model.files.definition import attach_definition_, definition_of
from compress.model.layers.embedding import FactorizedEmbedding
from compress.model.limits import positions_start_at
from compress.model.structure.find import lacking, structure_of

__all__ = ["keep_tokens_", "token_embedding", "token_table"]


def token_embedding(model: nn.Module) -> tuple[str, nn.Embedding | FactorizedEmbedding]:
    """Find the token embedding and its path.

    Raises:
        ModelError: the model doesn't say where it is, it is not float, or another layer shares its weight.
    """
    path = structure_of(model).token_embedding
    if path is None:
        raise ModelError(lacking(model, "embeddings of tokens", "token_embedding"))
    found = model.get_submodule(path)
    if isinstance(found, nn.Embedding) and type(found) is not nn.Embedding:
        raise ModelError(
            f"{path} is {type(found).__name__}, which computes more than a look-up in a table, so it "
            "can't be cut"
        )
    if type(found) is not nn.Embedding and not isinstance(found, FactorizedEmbedding):
        raise ModelError(
            f"{path} is {type(found).__name__}, not a float embedding, so it can't be cut; put prune stages "
            "before quantize stages"
        )
    table = found.table if isinstance(found, FactorizedEmbedding) else found
    if not isinstance(table, nn.Embedding):
        raise ModelError(
            f"{path}.table is {type(table).__name__}, so it can't be cut; put prune stages before quantize "
            "stages"
        )
    for name, module in model.named_modules():
        own = module.parameters(recurse=False)
        if module is not table and any(parameter is table.weight for parameter in own):
            raise ModelError(
                f"{path} shares its weight with {name} (tied embeddings), so it can't be cut alone; build "
                "the model without tying"
            )
    return path, found


def token_table(found: nn.Embedding | FactorizedEmbedding) -> nn.Embedding:
    """The nn.Embedding that holds one row per token."""
    return found.table if isinstance(found, FactorizedEmbedding) else found


def keep_tokens_(model: nn.Module, kept: Sequence[int]) -> None:
    """Keep only these rows of the vocabulary; a token's new id is its index in `kept`.

    A Hugging Face model's configuration and definition are updated: vocab_size, and ids of special tokens.

    Args:
        kept: token ids, ascending.

    Raises:
        ModelError: as `token_embedding`; an id doesn't exist; or positions would be numbered differently.
    """
    _, found = token_embedding(model)
    table = token_table(found)
    ids = list(kept)
    if not ids or ids != sorted(set(ids)) or ids[0] < 0 or ids[-1] >= table.num_embeddings:
        raise ModelError(f"tokens to keep must be some of 0..{table.num_embeddings - 1}, ascending")
    start = positions_start_at(model)
    if start is not None and ids[start : start + 1] != [start]:
        raise ModelError(
            f"token {start} and all below it must be kept, because the model derives positions from it"
        )
    new = {old: index for index, old in enumerate(ids)}
    table.weight = nn.Parameter(table.weight.detach()[ids].clone(), table.weight.requires_grad)
    for module in {id(each): each for each in (table, found)}.values():
        module.num_embeddings = len(ids)
        module.padding_idx = None if module.padding_idx is None else new.get(module.padding_idx)
    _renumber_config_(model, new)


def _renumber_config_(model: nn.Module, new: Mapping[int, int]) -> None:
    config: Any = getattr(model, "config", None)
    if config is None or not hasattr(config, "to_dict") or not hasattr(config, "vocab_size"):
        return
    before = config.vocab_size
    changes: dict[str, Any] = {"vocab_size": len(new)}
    for key, value in config.to_dict().items():
        if not key.endswith("_token_id"):
            continue
        if isinstance(value, list):
            changes[key] = [new[each] for each in value if each in new]
        elif isinstance(value, int) and value < before:  # a default beyond the table never named a token
            changes[key] = new.get(value)
    for key, value in changes.items():
        setattr(config, key, value)
    definition = definition_of(model)
    if definition is not None and definition.kind == "hf":
        attach_definition_(model, replace(definition, args={**definition.args, **changes}))
