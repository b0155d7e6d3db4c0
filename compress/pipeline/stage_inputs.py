"""What a stage is given beside the module: it changes once a stage has made the vocabulary smaller."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from compress.data import Splits, TextEncoder
from compress.data.readers.vocabulary import encode_splits_again, smaller_encoder
from compress.model.cutting.vocabulary import keep_tokens_

__all__ = ["Given"]


@dataclass(frozen=True)
class Given:
    """Rows, tokenizer and teacher that fit the module that stages work on.

    Attributes:
        splits: the recipe's rows, in the ids of the encoder.
        encoder: the tokenizer that the module reads by now; none for a model that reads no text.
        teacher: the uncompressed model, in the ids of the encoder.
    """

    splits: Splits
    encoder: TextEncoder | None
    teacher: nn.Module

    def with_vocabulary(self, kept: Sequence[int], scratch: Path) -> Given:
        """The same rows, texts split anew by the tokenizer of these tokens, and the teacher's rows of them.

        On texts whose tokens are all kept the teacher answers as before.

        Args:
            kept: token ids, as `Context.kept_tokens`; empty: nothing changes.
            scratch: a directory in which the tokenizer's files are written.
        """
        if not kept:
            return self
        assert self.encoder is not None
        directory = Path(tempfile.mkdtemp(prefix="tokenizer-", dir=scratch))
        encoder = smaller_encoder(self.encoder, kept, directory)
        teacher = copy.deepcopy(self.teacher)
        keep_tokens_(teacher, kept)
        return Given(encode_splits_again(self.splits, encoder), encoder, teacher)
