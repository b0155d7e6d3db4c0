"""`generate`: check that a language model's bundle generates text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compress.cli.common import echo

__all__ = ["generate"]


def generate(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Directory of a run of a language model.")],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="Text to continue.")],
    max_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Maximum number of new tokens.")] = 100,
    temperature: Annotated[
        float | None,
        typer.Option(
            metavar="T",
            min=0,
            help="Sampling temperature: 1 samples from the model's own distribution, 0 takes the most likely "
            "token. Default: 0, or 1 with --top-p.",
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            metavar="P", help="Sample only among the most likely tokens whose probabilities add up to P."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Random seed of sampling.")] = 0,
    threads: Annotated[
        int, typer.Option(metavar="N", min=0, help="ONNX Runtime threads; 0 lets ONNX Runtime decide.")
    ] = 0,
    file: Annotated[Path, typer.Option(metavar="FILE", help="ONNX file within the bundle.")] = Path(
        "onnx/model.onnx"
    ),
) -> None:
    """Generate text with the bundle of a language model."""
    from compress.deploy.generate import Sampling, Writer, Written

    # --top-p alone implies sampling.
    heat = temperature if temperature is not None else 0.0 if top_p is None else 1.0
    sampling = Sampling(heat, 1.0 if top_p is None else top_p, seed)
    written = Written()
    writer = Writer(bundle, file=file, threads=threads)
    for piece in writer.write(prompt, most=max_tokens, sampling=sampling, written=written):
        echo(piece, nl=False, as_data=True)
    echo()
    speed = "" if written.tokens_per_s is None else f", then {written.tokens_per_s:,.0f} tokens/s"
    echo(
        f"{written.prompt_tokens:,} tokens read in {1e3 * written.read_seconds:,.0f} ms{speed}; "
        f"{len(written.ids):,} written, {_ending(written.ended, bool(writer.end_ids))}",
        err=True,
    )


def _ending(reason: str, names_end: bool) -> str:
    if reason == "end":
        return "ended by the model"
    if reason == "context":
        return "stopped at the longest text that the model can read"
    never = "" if names_end else "; the bundle names no end token, so the model never ends a text"
    return f"stopped at --max-tokens{never}"
