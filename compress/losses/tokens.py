"""Token answers: a language model's teacher by the likeliest tokens of each position, and the rest together.

All of a teacher's logits on a million tokens of a vocabulary of 50,000 would take 200 GB; the k likeliest
with their ids take 256 bytes a token. At temperature 1 the divergence is over k + 1 events, the last of which
is "any other token": nothing is said of how the rest is spread. At another temperature the share of the rest
is not known from that, and the divergence is between both distributions on the k tokens alone.
Shapes: ... = positions, k = tokens kept, v = tokens of the vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TOP", "token_divergence", "top_answers"]

TOP = 32
_LEAST_REST = 1e-7  # of a probability: below it float32 can't tell 1 minus the others from rounding


def top_answers(logits: Tensor, top: int = TOP) -> tuple[Tensor, Tensor]:
    """Keep the likeliest tokens.

    Args:
        logits: [..., v].
        top: k, or v if that is less.

    Returns:
        Log-probabilities, float32 [..., k], and their tokens, int64 [..., k].
    """
    kept = logits.float().log_softmax(-1).topk(min(top, logits.shape[-1]), dim=-1)
    return kept.values, kept.indices


def token_divergence(logits: Tensor, values: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student), mean over positions.

    Args:
        logits: of the student, [..., v].
        values, ids: of the teacher, as `top_answers` returns them, [..., k].
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
    """Add the log-probability of all other tokens together: [..., k] -> [..., k + 1]."""
    import torch

    rest = (1 - values.exp().sum(-1, keepdim=True)).clamp(min=_LEAST_REST)
    return torch.cat((values, rest.log()), dim=-1)
