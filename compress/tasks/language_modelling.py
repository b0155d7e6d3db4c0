"""Language modelling: the label of each position is the next token.

Perplexity is exp of the mean loss per token, comparable between models with the same tokenizer; bits per byte
is the same loss per byte of text, comparable across tokenizers. Every row starts from an empty past, so the
first tokens of a row have little context: figures hold for this row length.

Of a teacher's logits, the k most likely tokens of each position are stored: all logits for a million tokens
with a vocabulary of 50,000 would take 200 GB, these take 256 bytes per token. At temperature 1 the divergence
is over k + 1 events, the last of which is "any other token". At other temperatures the probability of the
rest is unknown, and the divergence is between both distributions restricted to the k tokens.

Shapes: n = rows, b = batch, s = positions, v = vocabulary size, k = stored tokens, ... = positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from compress.tasks.base import Logits
from compress.tasks.metrics.statistics import mean_interval
from compress.tasks.softmax import OneOfSeveral
from compress.tasks.spec import Gate, HubHead, InputSpec, Integers, TaskWords

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LanguageModelling", "RowLosses", "compare_losses", "token_divergence", "top_answers"]

TOP = 32
_LEAST_REST = 1e-7  # minimum probability: below it float32 cannot tell 1 minus the others from rounding
_NEVER = -1e4  # logit of a token that a teacher doesn't have
_VALUES, _TOKENS = "answers: values", "answers: tokens"
_LN2 = math.log(2)
_MOST_HALF = 20.0  # half an interval, nats per token: one row gives no bound, and JSON has no infinity
_MOST_NATS = 700.0  # exp overflows a double above this


def _perplexity_ratio(measurement: Any, _: Callable[[Any], Any]) -> tuple[float, float, None] | None:
    language = measurement.language
    ratio = None if language is None else language.perplexity_ratio
    return None if ratio is None else (ratio.value, ratio.high, None)


def _decode_speedup(measurement: Any, at: Callable[[Any], Any]) -> tuple[float, float, Any] | None:
    timed = None if measurement.language is None else at(measurement.language.decode)
    return None if timed is None else (timed.speedup, timed.speedup_low, timed)


@dataclass(frozen=True)
class LanguageModelling(OneOfSeveral):
    """Next-token prediction; logits [b, s, v], labels int64 [b, s].

    Attributes:
        vocabulary: size of the model's vocabulary: v.
    """

    name = "language-modelling"
    rows = "stream"
    words = TaskWords(
        model="language model",
        metric="next-token accuracy",
        unit="token",
        answer="token",
        label="token",
        summary="the next token; text (data.source=corpus: files, folders, datasets), Python's source "
        "(stdlib)",
        served="language models",
        hub_metric="perplexity",
        constant="always predicting the most frequent token",
        batches="batches",
        alone="one at a time",
    )
    heads = (
        HubHead(
            "text",
            "language-modelling",
            "AutoModelForCausalLM",
            ("ForCausalLM", "LMHeadModel"),
            "text-generation",
            not_endings=("WithLMHeadModel",),
            what="predicts the next token of a text, not a class",
            wants="language modelling needs a model whose architecture ends in ForCausalLM or LMHeadModel",
        ),
    )
    gates = {
        "max_perplexity_ratio": Gate("perplexity relative to the baseline", "ratio", _perplexity_ratio),
        "min_decode_speedup": Gate("speed-up of generating a token", "speedup", _decode_speedup),
    }
    record = "language"
    keeps_past = True
    names_tokens = True
    takes_made_up_rows = False
    units_are_rows = False

    vocabulary: int = 0

    @property
    def classes(self) -> int:
        """Vocabulary size: v."""
        return self.vocabulary

    @property
    def answer_shape(self) -> tuple[int | str, ...]:
        """One number per position and token."""
        return ("sequence_length", self.vocabulary)

    @classmethod
    def of_model(cls, inputs: tuple[InputSpec, ...], labels: Sequence[str] | None, vocabulary: int) -> Self:
        """With the vocabulary of its tokenizer."""
        return cls(inputs, vocabulary=vocabulary)

    def misfit(self, shape: Sequence[int], rows: int, positions: int) -> str | None:
        """A model's vocabulary may be larger than its tokenizer's."""
        if len(shape) == 3 and shape[1] == positions and shape[2] >= self.vocabulary:
            return None
        return (
            f"with logits of shape {list(shape)}; a language model must return at least "
            f"{self.vocabulary:,} numbers (the tokens of its tokenizer) for each of the {positions} positions"
        )

    def widened(self, shape: Sequence[int]) -> Self:
        """With the model's vocabulary size."""
        return replace(self, vocabulary=shape[2])

    def of_teacher(self, logits: Tensor) -> Tensor:
        """The tokens that both have: output tables of one tokenizer are padded to different sizes."""
        from torch.nn import functional as F

        more = self.vocabulary - logits.shape[-1]
        return F.pad(logits, (0, more), value=_NEVER) if more > 0 else logits[..., : self.vocabulary]

    def kept_answers(self, logits: Tensor) -> dict[str, Tensor]:
        """`top_answers`, each [b, s, k]; ids are whole float32 numbers."""
        values, ids = top_answers(logits)
        return {_VALUES: values, _TOKENS: ids.float()}

    def divergence_from_kept(self, logits: Tensor, kept: Mapping[str, Tensor], temperature: float) -> Tensor:
        """`token_divergence` from the stored tokens."""
        return token_divergence(logits, kept[_VALUES], kept[_TOKENS].long(), temperature)

    @classmethod
    def judged(cls, logits: Logits, labels: Any) -> Logits:
        """The logits of all positions, [b s, v]."""
        return logits.reshape(-1, logits.shape[-1])

    @classmethod
    def tally(cls) -> RowLosses:
        """Collects losses."""
        return RowLosses()

    @classmethod
    def compare_tallies(
        cls, baseline: RowLosses, candidate: RowLosses, units: int, label_bytes: Integers | None
    ) -> dict[str, Any]:
        """`compare_losses` of both tallies."""
        return compare_losses(
            baseline, candidate, units, None if label_bytes is None else int(label_bytes.sum())
        )

    @classmethod
    def rows_a_call(cls, usual: int) -> int:
        """1: rows are long and their outputs large, so that batches would be no faster."""
        return 1

    def hub_entries(self) -> dict[str, Any]:
        """Empty: tokens have no names in config.json."""
        return {}

    @classmethod
    def program(cls, file: str, set_threads: str) -> str:
        """A program that generates text greedily."""
        return _PROGRAM.replace("{file}", file).replace("{set_threads}", set_threads)

    @classmethod
    def manifest_score(cls, measurement: Any, how: str, length: int) -> dict[str, Any]:
        """Also tokens and perplexity."""
        accuracy = measurement.candidate.accuracy
        return {
            "value": accuracy.value,
            "rows": accuracy.rows,
            "tokens": accuracy.units,
            "perplexity": measurement.language.candidate.perplexity,
            "how": f"of the next token, in rows of {length} from an empty past",
        }

    @classmethod
    def variant_facts(cls, measurement: Any, is_baseline: bool) -> dict[str, Any]:
        """Tokens, perplexity, and its ratio to the baseline's."""
        language = measurement.language
        ratio = language.perplexity_ratio
        return {
            "tokens": language.tokens,
            "perplexity": (language.baseline if is_baseline else language.candidate).perplexity,
            "perplexity_ratio": {"value": 1.0, "low": 1.0, "high": 1.0}
            if is_baseline
            else ratio.model_dump(),
        }


class RowLosses:
    """Collects the mean loss of each row, in nats per token, over successive batches."""

    def __init__(self) -> None:
        self._parts: list[NDArray[np.float64]] = []

    def add(self, logits: NDArray[Any], labels: Integers) -> None:
        """Add a batch: logits [b, s, v] or [b s, v], and labels [b, s]."""
        logits = logits.reshape(-1, logits.shape[-1])
        top = logits.max(axis=-1, keepdims=True)
        total = np.exp(logits - top).sum(axis=-1, dtype=np.float64)
        chosen = np.take_along_axis(logits, labels.reshape(-1, 1), axis=-1)
        losses = np.log(total) - (chosen - top)[:, 0].astype(np.float64)
        self._parts.append(losses.reshape(labels.shape).mean(axis=1))

    @property
    def values(self) -> NDArray[np.float64]:
        """Losses of all rows, [n]."""
        return np.concatenate(self._parts)


def compare_losses(
    baseline: RowLosses, candidate: RowLosses, tokens: int, text_bytes: int | None
) -> dict[str, Any]:
    """Figures of two models' losses on the same rows, named as in `measure.results.Language`.

    Args:
        tokens: total over all rows.
        text_bytes: bytes of text that the tokens cover; None if unknown.
    """
    before, after = baseline.values, candidate.values

    def model(losses: NDArray[np.float64]) -> dict[str, float | None]:
        loss = float(losses.mean())
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, _MOST_NATS)),
            "bits_per_byte": None if not text_bytes else loss * tokens / _LN2 / text_bytes,
        }

    value = float((after - before).mean())
    low, high = mean_interval(after - before)
    ends = {"value": value, "low": max(low, value - _MOST_HALF), "high": min(high, value + _MOST_HALF)}
    return {
        "rows": len(before),
        "tokens": tokens,
        "text_bytes": text_bytes or 0,
        "baseline": model(before),
        "candidate": model(after),
        "perplexity_ratio": {
            name: math.exp(max(min(nats, _MOST_NATS), -_MOST_NATS)) for name, nats in ends.items()
        },
    }


def top_answers(logits: Tensor, top: int = TOP) -> tuple[Tensor, Tensor]:
    """Select the most likely tokens.

    Args:
        logits: [..., v].
        top: k, or v if smaller.

    Returns:
        Log-probabilities, float32 [..., k], and token ids, int64 [..., k].
    """
    kept = logits.float().log_softmax(-1).topk(min(top, logits.shape[-1]), dim=-1)
    return kept.values, kept.indices


def token_divergence(logits: Tensor, values: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student), mean over positions.

    Args:
        logits: of the student, [..., v].
        values, ids: of the teacher, as returned by `top_answers`, [..., k].
        temperature: T.
    """
    import torch
    from torch.nn import functional as F

    if temperature == 1:
        student = logits.float().log_softmax(-1).gather(-1, ids)
        both = (
            (_with_rest(student), _with_rest(values))
            if ids.shape[-1] < logits.shape[-1]
            else (student, values)
        )
    else:
        student = (logits.float().gather(-1, ids) / temperature).log_softmax(-1)
        both = student, (values / temperature).log_softmax(-1)
    mine, wanted = (torch.flatten(each, 0, -2) for each in both)
    return F.kl_div(mine, wanted, reduction="batchmean", log_target=True) * temperature**2


def _with_rest(values: Tensor) -> Tensor:
    """Append the total log-probability of all other tokens: [..., k] -> [..., k + 1]."""
    import torch

    rest = (1 - values.exp().sum(-1, keepdim=True)).clamp(min=_LEAST_REST)
    return torch.cat((values, rest.log()), dim=-1)


_PROGRAM = """import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

options = ort.SessionOptions()
{set_threads}session = ort.InferenceSession("{file}", options, providers=["CPUExecutionProvider"])
tokenizer = Tokenizer.from_file("tokenizer.json")
tokenizer.no_truncation()
names = [value.name for value in session.get_outputs()]
past = {
    value.name: np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
    for value in session.get_inputs()
    if value.name.startswith("past_key_values.")
}
ids = tokenizer.encode("Put the text here.").ids
new = ids
for _ in range(50):
    feed = {"input_ids": np.array([new]), "attention_mask": np.ones((1, len(ids)), np.int64), **past}
    found = dict(zip(names, session.run(None, feed)))
    past = {f"past_key_values{k[7:]}": v for k, v in found.items() if k.startswith("present.")}
    new = [int(found["logits"][0, -1].argmax())]
    ids = ids + new
print(tokenizer.decode(ids))
"""
