"""Generate text from a decoder bundle, with onnxruntime, tokenizers and numpy only.

Reads our bundles and other directories with the Hub's layout of ONNX decoders.
Shapes: v = tokens of the vocabulary, t = tokens so far.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from compress.data.past import empty_past, is_past, past_of_present
from compress.data.split import Array
from compress.errors import MeasureError, ModelError
from compress.measure.runtimes.session import create_session
from compress.system.cores import quota_cores
from compress.system.files import read_json
from compress.tasks import TASKS, task_class
from compress.tasks.registry import decoder_task

__all__ = ["Sampling", "Writer", "Written", "pick_token"]

_ONNX = Path("onnx") / "model.onnx"
_BROKEN = "\ufffd"  # decoded from an incomplete character


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0 takes the most likely token; otherwise logits are divided by it and a token is sampled.
        top_p: sample from the most likely tokens whose total probability reaches this (Holtzman et al. 2020,
            "The Curious Case of Neural Text Degeneration", arXiv 1904.09751).
        seed: of the sampling.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0 or not np.isfinite(self.temperature):
            raise ModelError(
                f"temperature: {self.temperature} is not allowed; give 0 (the most likely token) or more"
            )
        if not 0 < self.top_p <= 1:
            raise ModelError(f"top_p: {self.top_p} is not allowed; give a value above 0 and at most 1")


@dataclass
class Written:
    """The text generated so far, with statistics.

    Attributes:
        prompt_tokens: number of tokens in the prompt.
        ids: generated tokens, without an end token.
        read_seconds: time until the first token.
        write_seconds: time for all tokens after the first.
        ended: why generation stopped: `end` (the model's end token), `length` (the requested number of
            tokens) or `context` (the model's context is full).
    """

    prompt_tokens: int = 0
    ids: list[int] = field(default_factory=list)
    read_seconds: float = 0.0
    write_seconds: float = 0.0
    ended: str = ""

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens per second after the first; None if there is no second token."""
        return (len(self.ids) - 1) / self.write_seconds if len(self.ids) > 1 else None


def pick_token(logits: Array, sampling: Sampling, draw: np.random.Generator) -> int:
    """Choose a token from its logits, [v]."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    scaled = logits.astype(np.float64) / sampling.temperature
    share = np.exp(scaled - scaled.max())
    share /= share.sum()
    order = np.argsort(-share, kind="stable")
    # Tokens with less than top_p of probability before them; always includes the most likely one.
    kept = order[: int(np.searchsorted(np.cumsum(share[order]), sampling.top_p)) + 1]
    return int(draw.choice(kept, p=share[kept] / share[kept].sum()))


class Writer:
    """An open decoder bundle.

    Attributes:
        context: context length in tokens, prompt and answer together; None if the bundle doesn't state it.
        end_ids: tokens that end a text; empty if the bundle names none.
    """

    def __init__(self, bundle: Path, *, file: Path = _ONNX, threads: int = 0) -> None:
        """Open a bundle.

        Args:
            bundle: the directory.
            file: the ONNX file in it.
            threads: intra-op threads; 0 uses the container's CPU quota, or else ONNX Runtime's default.

        Raises:
            ModelError: if it is no decoder bundle, or one of its files can't be read or doesn't match the
                manifest.
        """
        if bundle.is_file():
            raise ModelError(
                f"{bundle} is a file; give a bundle's directory, as written by `modelpress export {bundle} "
                "-o DIR`"
            )
        if not bundle.is_dir():
            raise ModelError(f"{bundle}: no such directory")
        settings = {name: _read_json(bundle / f"{name}.json") for name in ("manifest", "config")}
        _check_task(bundle, settings["manifest"])
        _check_files(bundle, file, settings["manifest"])
        self._tokenizer = _tokenizer(bundle)
        try:
            self._session: Any = create_session(bundle / file, threads=threads or quota_cores() or 0)
        except MeasureError as error:
            raise ModelError(str(error)) from error
        self._wanted = {value.name for value in self._session.get_inputs()}
        self._outputs = [value.name for value in self._session.get_outputs()]
        if "input_ids" not in self._wanted or not any(map(is_past, self._wanted)):
            raise ModelError(
                f"{bundle / file} is not a decoder with a key-value cache (inputs: "
                f"{', '.join(sorted(self._wanted))}); generate needs a bundle of a language model"
            )
        self._past = empty_past(self._session.get_inputs(), 1)
        self.context = _context(settings)
        self._cache_until = settings["manifest"].get("cache_until")
        self.end_ids = _end_ids(bundle, settings, self._tokenizer)

    def write(
        self, prompt: str, *, most: int, sampling: Sampling | None = None, written: Written | None = None
    ) -> Iterator[str]:
        """Continue a text, piece by piece, until the model ends it or `most` tokens are generated.

        Args:
            written: filled in during generation.

        Raises:
            ModelError: if the prompt has no tokens, or fills the model's context.
        """
        sampling, written = sampling or Sampling(), written or Written()
        ids = self._tokenizer.encode(prompt).ids
        written.prompt_tokens = len(ids)
        if not ids:
            raise ModelError("the prompt is empty; give a text to continue")
        if self.context is not None and len(ids) >= self.context:
            raise ModelError(
                f"the prompt has {len(ids):,} tokens, but the model's context has {self.context:,} for "
                "prompt and generated text together; give a shorter one"
            )
        room = most if self.context is None else min(most, self.context - len(ids))
        return self._stream(ids, room, "length" if room == most else "context", sampling, written)

    def _stream(
        self, ids: Sequence[int], room: int, reason: str, sampling: Sampling, written: Written
    ) -> Iterator[str]:
        draw = np.random.default_rng(sampling.seed)
        past = self._past
        new, seen, shown = list(ids), len(ids), ""
        for count in range(room):
            began = time.perf_counter()
            logits, past = self._step(new, seen, past)
            token = pick_token(logits, sampling, draw)
            seconds = time.perf_counter() - began
            if count == 0:
                written.read_seconds = seconds
            else:
                written.write_seconds += seconds
            if token in self.end_ids:
                written.ended = "end"
                break
            written.ids.append(token)
            new, seen = [token], seen + 1
            if seen - 1 == self._cache_until:  # from here on all keys have other rotary frequencies
                new, past = [*ids, *written.ids], self._past
            text = self._tokenizer.decode(written.ids)
            if not text.endswith(_BROKEN):  # otherwise the rest of a character is still to come
                yield text[len(shown) :]
                shown = text
        else:
            written.ended = reason
        rest = self._tokenizer.decode(written.ids)[len(shown) :]
        if rest:
            yield rest

    def _step(self, new: Sequence[int], seen: int, past: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        """Logits of the next token, [v], and the keys and values of all t = `seen` tokens."""
        feed = {
            "input_ids": np.array([new], dtype=np.int64),
            "attention_mask": np.ones((1, seen), dtype=np.int64),
            "position_ids": np.arange(seen - len(new), seen, dtype=np.int64)[None],
            **past,
        }
        given = {name: array for name, array in feed.items() if name in self._wanted}
        try:
            found = dict(zip(self._outputs, self._session.run(None, given), strict=True))
        except Exception as error:  # onnxruntime's exceptions share no base but Exception
            raise ModelError(
                f"ONNX Runtime fails on {len(new)} tokens after {seen - len(new)}: {error}"
            ) from error
        return found["logits"][0, -1], past_of_present(found)


def _check_task(bundle: Path, manifest: dict[str, Any]) -> None:
    task = manifest.get("task", decoder_task())
    if task not in TASKS or not task_class(task).keeps_past:
        raise ModelError(
            f"{bundle} is not a language model (task in its manifest.json: {task}); generate needs a bundle "
            "of one"
        )


def _check_files(bundle: Path, file: Path, manifest: dict[str, Any]) -> None:
    """Check that the ONNX file and the tokenizer exist and match the manifest."""
    if not (bundle / file).is_file():
        found = [*bundle.glob("*.onnx"), *bundle.glob("onnx/*.onnx")]
        others = ", ".join(sorted(each.relative_to(bundle).as_posix() for each in found))
        if others:
            raise ModelError(f"{bundle} contains no {file}; give one of its files with --file: {others}")
        has_weights = any(bundle.glob("*.safetensors"))
        how = f", as written by `modelpress export {bundle} -o DIR`" if has_weights else ""
        raise ModelError(f"{bundle} contains no {file}; give a bundle's directory{how}")
    digests = manifest.get("sha256")
    for name in (file, Path("tokenizer.json")):
        digest = digests.get(name.as_posix()) if isinstance(digests, dict) else None
        if digest is None or not (bundle / name).is_file():
            continue
        with (bundle / name).open("rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() != digest:
                raise ModelError(
                    f"{bundle / name} is damaged or was changed (its SHA-256 is not that in manifest.json); "
                    "copy the bundle again"
                )


def _tokenizer(bundle: Path) -> Any:
    from compress.data.readers.tokenize import TextEncoder
    from compress.errors import DataError

    try:
        tokenizer = TextEncoder.from_directory(bundle).tokenizer
    except DataError as error:
        raise ModelError(str(error)) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _context(settings: dict[str, dict[str, Any]]) -> int | None:
    names = (("manifest", "context_length"), ("config", "max_position_embeddings"), ("config", "n_positions"))
    found = (settings[file].get(name) for file, name in names)
    return next((value for value in found if isinstance(value, int) and value > 0), None)


def _end_ids(bundle: Path, settings: dict[str, dict[str, Any]], tokenizer: Any) -> frozenset[int]:
    said = [
        settings["config"].get("eos_token_id"),
        _read_json(bundle / "generation_config.json").get("eos_token_id"),
    ]
    token = _read_json(bundle / "tokenizer_config.json").get("eos_token")
    token = token.get("content") if isinstance(token, dict) else token
    said.append(tokenizer.token_to_id(token) if isinstance(token, str) else None)
    flat = [each for value in said for each in (value if isinstance(value, list) else [value])]
    return frozenset(each for each in flat if isinstance(each, int))
