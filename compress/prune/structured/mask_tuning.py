"""Mask tuning: scale the kept units so that their site's output matches the dense model's.

Kwon et al. 2022, arXiv 2204.09656 ("A Fast Post-Training Pruning Framework for Transformers"), sec. 4.3. Site
by site in forward order, with the inputs that the tuned earlier sites produce, solve
    min_s || sum_u s_u x_u W_u' - y ||^2 + damping || s - 1 ||^2
over the kept units u, with y the dense model's output there. Since s = 1 is feasible, no site gets worse on
the rows that it is tuned on. Scales are folded into the consumer, so they cost nothing at inference.

Differences from the paper: y is the dense model's (the paper uses a mildly pruned one), and of the consumer
alone, without the residual stream; the damping pulls to 1 (no change), not to 0.
Shapes: b = rows of a batch, t = tokens, u = units of a site, k = kept units, d = columns of a unit,
i = k * d input features, o = output features.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from compress.errors import StageError
from compress.model.observe.capture import input_at
from compress.progress import Progress, Silent
from compress.prune.importance.unit_gates import gated

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.data.split import Split
    from compress.model.structure.sites import Site
    from compress.tasks import Task

__all__ = ["fold_gates_", "normal_equations", "solve_scales", "tune_masks"]

_DAMPING = 1e-3  # of the mean of the normal matrix' diagonal
_LARGEST = 10.0  # a larger scale is an artefact of units that nearly cancel (the paper's limit)


def tune_masks(
    student: nn.Module,
    teacher: nn.Module,
    sites: Sequence[Site],
    gates: list[Tensor],
    split: Split,
    task: Task,
    *,
    batch_size: int = 32,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[Tensor]:
    """Scale the kept units; both models are left unchanged, in eval mode on the CPU.

    For each site, both models run over the rows up to that site: about one full pass of both for every two
    sites. Memory is one batch and matrices [i, i]. Sites without units, and those before the first masked
    unit (whose output already matches the dense model's), are skipped and keep their gates.

    Args:
        student: the model that the gates belong to, not cut yet.
        teacher: the dense model; may be the student itself.
        sites: in forward order, as in `Structure.sites`.
        gates: one [u] per site, 1 for a kept unit and 0 for a removed one.
        split: calibration rows.

    Returns:
        One [u] per site, float32 on the CPU: a scale for each kept unit, 0 for the others.

    Raises:
        StageError: gates don't fit the sites, the teacher lacks a site, there are no rows, or a value is not
            finite.
        ModelError: a consumer is not a float Linear.
    """
    from compress.model.cutting.units import float_linear, unit_features
    from compress.model.evaluating import evaluating
    from compress.model.forward import to_tensors

    tuned = _checked(student, teacher, sites, gates, split)
    with (
        evaluating(student, device),
        evaluating(teacher, device),
        (progress or Silent()).bar("tuning the kept units", len(sites)) as bar,
    ):
        masked = False
        for index, site in enumerate(sites):
            kept = tuned[index].nonzero().flatten()  # [k]
            masked = masked or len(kept) < len(tuned[index])
            if masked and len(kept) > 0:
                columns = unit_features(kept.tolist(), site.unit_size).to(device)  # [i]
                # Order doesn't matter to a sum, and shuffled batches hold rows of similar length.
                batches = (
                    to_tensors(batch, task.input_names, device)
                    for batch in split.batches(batch_size, shuffle_seed=0)
                )
                before = (sites[:index], [gate.to(device) for gate in tuned[:index]])
                weight = float_linear(student, site.consumer).weight.detach()[:, columns].float()
                pairs = _pairs(student, teacher, site, before, batches, columns)
                scales = solve_scales(*normal_equations(pairs, weight, site.unit_size))
                tuned[index][kept] = scales.float()
            bar.advance(1, site.name)
    return tuned


def solve_scales(normal: Tensor, right: Tensor) -> Tensor:
    """Solve the damped normal equations for scales; one beyond +-10 is fixed at 1.

    The others are then solved again with that one at 1.

    Args:
        normal: A'A with one column of A per unit, [k, k].
        right: A'b, [k].

    Returns:
        Scales, float64 [k]; 1 for units whose output is zero.

    Raises:
        StageError: the equations are not finite.
    """
    import torch

    if not bool(torch.isfinite(normal).all() and torch.isfinite(right).all()):
        raise StageError("mask tuning: the outputs of the units contain NaN, or are too large to be squared")
    normal, right = normal.double(), right.double()
    damping = _DAMPING * float(normal.diagonal().mean())
    scales, free = torch.ones_like(right), torch.ones(len(right), dtype=torch.bool)
    # In terms of s - 1 the damping pulls to zero, and a unit fixed at 1 drops out.
    residual = right - normal.sum(1)
    while damping > 0 and bool(free.any()):
        matrix = normal[free][:, free]
        matrix.diagonal().add_(damping)
        scales[free] = 1 + torch.linalg.solve(matrix, residual[free])
        wild = free & (scales.abs() > _LARGEST)
        if not bool(wild.any()):
            break
        free &= ~wild
        scales[wild] = 1
    return scales


def fold_gates_(model: nn.Module, site: Site, gates: Tensor) -> None:
    """Multiply each unit's gate into its columns of the consumer, in place: same outputs as if gated.

    Args:
        gates: [u].

    Raises:
        StageError: the number of gates differs from the number of units.
        ModelError: the consumer is not a float Linear.
    """
    import torch

    from compress.model.cutting.units import float_linear

    weight = float_linear(model, site.consumer).weight  # [o, u*d]
    if gates.shape != (site.units(model),):
        raise StageError(_misfit(site, gates, site.units(model)))
    with torch.no_grad():
        weight.mul_(gates.to(weight).repeat_interleave(site.unit_size))


def normal_equations(
    pairs: Iterable[tuple[Tensor, Tensor]], weight: Tensor, unit_size: int
) -> tuple[Tensor, Tensor]:
    """Accumulate the least-squares problem whose column u is unit u's contribution to the consumer's output.

    No tokens are stored: column u is x_u W_u', so (A'A)_uv sums (x'x)_ij (W'W)_ij over the columns i of u and
    j of v, and (A'y)_u sums (x'y)_ij W_ji over the columns i of u and all j.

    Args:
        pairs: consumer inputs [t, i] and target outputs [t, o], chunk by chunk.
        weight: of the consumer, [o, i].
        unit_size: d.

    Returns:
        A'A [k, k] and A'y [k], float64 on the CPU.
    """
    import torch

    outputs, features = weight.shape
    gram = torch.zeros(features, features, dtype=torch.float64)
    cross = torch.zeros(features, outputs, dtype=torch.float64)
    for x, y in pairs:
        gram += (x.T @ x).cpu()  # one batch in float32, the sum of many in float64
        cross += (x.T @ y).cpu()
    weight = weight.double().cpu()
    units = features // unit_size
    blocks = (gram * (weight.T @ weight)).reshape(units, unit_size, units, unit_size)
    return blocks.sum((1, 3)), (cross * weight.T).reshape(units, -1).sum(1)


def _pairs(
    student: nn.Module,
    teacher: nn.Module,
    site: Site,
    before: tuple[Sequence[Site], list[Tensor]],
    batches: Iterable[dict[str, Tensor]],
    columns: Tensor,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the student's inputs of the kept units [t, i] and the teacher's outputs [t, o], without bias."""
    from compress.model.cutting.units import float_linear

    dense = float_linear(teacher, site.consumer).weight.detach().float()  # [o, its own inputs]
    for inputs in batches:
        with gated(student, *before):
            x = input_at(student, site, inputs)[:, columns].float()
        yield x, input_at(teacher, site, inputs).float() @ dense.T


def _checked(
    student: nn.Module, teacher: nn.Module, sites: Sequence[Site], gates: Sequence[Tensor], split: Split
) -> list[Tensor]:
    """Validate the arguments and return copies of the gates, float32 on the CPU."""
    from compress.model.cutting.units import float_linear

    if len(split) == 0:
        raise StageError("mask tuning: there are no calibration rows")
    if len(gates) != len(sites):
        raise StageError(f"mask tuning: {len(gates)} gates for {len(sites)} sites; give one per site")
    for site, gate in zip(sites, gates, strict=True):
        if gate.shape != (site.units(student),):
            raise StageError(_misfit(site, gate, site.units(student)))
        if site.units(teacher) == 0:
            raise StageError(
                f"mask tuning: the teacher has no {site.consumer}, which {site.name} is tuned to"
            )
        outputs = [float_linear(model, site.consumer).out_features for model in (student, teacher)]
        if outputs[0] != outputs[1]:
            raise StageError(
                f"mask tuning: {site.consumer} returns {outputs[0]} features in the student and "
                f"{outputs[1]} in the teacher; they must be equal"
            )
    return [gate.detach().cpu().float().clone() for gate in gates]


def _misfit(site: Site, gates: Tensor, units: int) -> str:
    return (
        f"mask tuning: {site.name} has {units} {site.unit_name}s, but its gates have shape "
        f"{list(gates.shape)}"
    )
