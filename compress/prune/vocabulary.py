"""Vocabulary pruning: remove tokens that the training rows don't need, with their embedding rows.

A model fine-tuned on one domain reads a fraction of its vocabulary (Ushio et al. 2023, "An Efficient
Multilingual Language Model Compression through Vocabulary Trimming", arXiv 2305.15020). The tokenizer is cut
too: text that used to yield a removed token is split into smaller pieces.
Shapes: v = tokens.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from compress.data.source import DataSource
from compress.errors import StageError
from compress.prune.stage import PruneStage
from compress.stage import Context, StageResult
from compress.tasks import task_class
from compress.train_config import TrainConfig

if TYPE_CHECKING:
    from torch import nn

    from compress.data.readers.tokenize import TextEncoder
    from compress.data.split import Split

__all__ = ["VocabularyPruning", "tokens_of_words", "unknown_token"]


def tokens_of_words(encoder: TextEncoder, words: Sequence[str]) -> set[int]:
    """Ids of the words as tokens, and of the tokens they split into at the start of a text and after a space.

    Raises:
        StageError: a word yields only unknown tokens.
    """
    found: set[int] = set()
    tokenizer = encoder.tokenizer
    unknown = unknown_token(encoder)
    for word in words:
        ids: set[int | None] = {tokenizer.token_to_id(word)}
        for text in (word, f" {word}"):
            ids |= set(tokenizer.encode(text, add_special_tokens=False).ids)
        known = {index for index in ids if index is not None and index != unknown}
        if not known:
            raise StageError(f"prune/vocabulary: protect: '{word}' is not a token of the tokenizer")
        found |= known
    return found


def unknown_token(encoder: TextEncoder) -> int | None:
    """Id of the unknown token, or None."""
    model = json.loads(encoder.tokenizer.to_str())["model"]
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    name = model.get("unk_token")
    return None if name is None else encoder.tokenizer.token_to_id(name)


class VocabularyPruning(PruneStage):
    """Remove tokens from tokenizer and embedding.

    Special tokens, single characters and bytes are kept, and all tokens that a kept token is merged from.

    Attributes:
        min_count: tokens with fewer occurrences in the training rows are removed.
        protect: tokens to keep whatever their count, or words whose tokens are kept.
        recovery: training after the cut; not needed with min_count 1, where the training rows are tokenized
            as before.
    """

    name: ClassVar[str] = "prune/vocabulary"
    summary: ClassVar[str] = (
        "remove tokens that the training rows don't need from tokenizer and embedding: smaller, not faster"
    )

    min_count: int = Field(default=1, ge=1)
    protect: tuple[str, ...] = ()
    recovery: TrainConfig | None = None

    @property
    def guess(self) -> str:
        """How many tokens are removed; see `Stage.guess`."""
        return "how many tokens are removed (shown: none)"

    def rehearse(self, model: nn.Module) -> nn.Module:
        """Check that the model has an embedding that can be cut; how many tokens go depends on the rows."""
        from compress.model.cutting.vocabulary import token_embedding

        token_embedding(model)
        return model

    def data_objection(self, data: DataSource) -> str | None:
        """Refuse models whose outputs are tokens."""
        kind = task_class(data.task)
        if kind.names_tokens:
            return f"can't cut the output vocabulary of a {kind.words.model}; it works on text classifiers"
        return None

    def pruned(self, model: nn.Module, context: Context) -> StageResult:
        """Return a copy with fewer tokens, and the ids of those that it keeps.

        Raises:
            StageError: the context has no tokenizer, or every token is needed.
            ModelError: the model has no token embedding that can be cut.
        """
        from compress.data.readers.vocabulary import encode_again, smaller_encoder
        from compress.model.cutting.vocabulary import keep_tokens_, token_embedding, token_table

        made = copy.deepcopy(model).eval()
        before = token_table(token_embedding(made)[1]).num_embeddings
        encoder = context.encoder
        if encoder is None:
            raise StageError(
                "prune/vocabulary: these rows were not tokenized; it works on text only, with a TextEncoder "
                "as the context's reader"
            )
        kept = self._kept(made, context, encoder, before)
        keep_tokens_(made, kept)
        smaller = smaller_encoder(encoder, kept)
        train, validation = encode_again(context.train, smaller), encode_again(context.validation, smaller)
        facts = {"vocabulary_before": before, "vocabulary_kept": len(kept)}
        facts |= self._changes(context, encoder, kept, validation, smaller)
        result = StageResult(made, facts, kept_tokens=kept)
        if self.recovery is not None:
            task = replace(context.task, inputs=smaller.inputs)
            inside = replace(context, train=train, validation=validation, task=task)
            result.fit_(inside, self.recovery, "prune/vocabulary recovery")
        made.eval()
        return result

    def _kept(self, model: nn.Module, context: Context, encoder: TextEncoder, before: int) -> tuple[int, ...]:
        from compress.data.readers.vocabulary import required_tokens, token_counts
        from compress.model.cutting.vocabulary import token_embedding, token_table
        from compress.model.limits import positions_start_at

        counts = token_counts(context.train, before)
        wanted = set(np.flatnonzero(counts >= self.min_count).tolist())
        wanted |= tokens_of_words(encoder, self.protect)
        padding = token_table(token_embedding(model)[1]).padding_idx
        wanted |= {encoder.pad_id} | ({padding} if padding is not None else set())
        start = positions_start_at(model)
        wanted |= set(range(start + 1)) if start is not None else set()
        kept = required_tokens(json.loads(encoder.tokenizer.to_str()), wanted)
        if len(kept) == before:
            raise StageError(
                f"prune/vocabulary: all {before} tokens are needed: each occurs at least {self.min_count} "
                "times in the training rows, or is a special token or a single character"
            )
        return kept

    def _changes(
        self,
        context: Context,
        encoder: TextEncoder,
        kept: Sequence[int],
        validation: Split,
        smaller: TextEncoder,
    ) -> dict[str, Any]:
        """Facts on how the tokens of the validation rows change."""
        new = {old: index for index, old in enumerate(kept)}
        old_rows = [row["input_ids"].tolist() for row in context.validation.rows]
        new_rows = [row["input_ids"].tolist() for row in validation.rows]
        same = [[new.get(i) for i in a] == b for a, b in zip(old_rows, new_rows, strict=True)]
        return {
            "validation_rows_split_otherwise": round(1 - sum(same) / len(same), 4),
            "validation_tokens_before": sum(map(len, old_rows)),
            "validation_tokens_after": sum(map(len, new_rows)),
            "validation_unknown_before": _count(old_rows, unknown_token(encoder)),
            "validation_unknown_after": _count(new_rows, unknown_token(smaller)),
        }


def _count(rows: Sequence[list[int]], token: int | None) -> int:
    return 0 if token is None else sum(row.count(token) for row in rows)
