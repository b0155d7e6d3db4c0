"""`generate`: check that a language model's bundle generates text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compress.cli.common import echo

__all__ = ["generate"]


def generate(
    bundle: Annotated[Path, typer.Argument(help="A directory with a language model, as run leaves it.")],
    prompt: Annotated[str, typer.Argument(help="The text to write on from.")],
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens to write at the most.")] = 100,
    temperature: Annotated[
        float | None,
        typer.Option(min=0, help="Draw the tokens; 1: as the model says, 0: take the likeliest."),
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw among the likeliest that have this probability together.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    threads: Annotated[int, typer.Option(min=0, help="0: as many as ONNX Runtime takes.")] = 0,
    file: Annotated[Path, typer.Option(help="The ONNX file in the bundle.")] = Path("onnx/model.onnx"),
) -> None:
    """Write on from a text with a bundle's ONNX file, token by token as they come."""
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
        return "as many as the model can see"
    never = "" if names_end else "; its files name no end token, so it never ends by itself"
    return f"as many as --max-tokens allows{never}"
