"""Choose one of several ONNX files of a model: the fastest, the smallest or the most accurate.

For directories written by `modelpress bundle`. The choice uses the figures in the manifest, so nothing is
measured here; only onnxruntime is needed to open the chosen file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.errors import ModelError, did_you_mean
from compress.measure.environment import environment, sums_are_exact
from compress.measure.runtimes.session import create_session
from compress.system.files import read_json

__all__ = ["HOLDS_WITH_EXACT_SUMS", "Variant", "load_variant"]

HOLDS_WITH_EXACT_SUMS = "x86 with VNNI, Arm"
_PREFERENCES: dict[str, Callable[[Variant], tuple[float, ...]]] = {
    "fastest": lambda x: (-x.speedup, x.size_bytes),
    "smallest": lambda x: (x.size_bytes, -x.speedup),
    "accurate": lambda x: (-x.accuracy if x.perplexity is None else x.perplexity, -x.speedup),
}


@dataclass(frozen=True)
class Variant:
    """One of several ONNX files.

    Attributes:
        name: name of its run; baseline for the uncompressed model.
        path: the .onnx file.
        accuracy: share of test rows predicted correctly, one at a time.
        drop: accuracy of the uncompressed model minus this one's, on the same rows.
        speedup: relative to the uncompressed model, at the first setting that all variants share.
        accuracy_holds: processors that the accuracy is valid for.
        perplexity: of a language model, where it decides which is the most accurate; None for other models.
    """

    name: str
    path: Path
    size_bytes: int
    accuracy: float
    drop: float
    speedup: float
    accuracy_holds: str
    perplexity: float | None = None

    def session(self, *, threads: int = 1) -> Any:
        """Open the file as an onnxruntime.InferenceSession on the CPU.

        Args:
            threads: intra-op threads.

        Raises:
            MeasureError: if ONNX Runtime refuses the file.
        """
        return create_session(self.path, threads=threads)


def load_variant(path: str | Path, prefer: str = "fastest", *, max_drop: float | None = None) -> Variant:
    """Choose a variant by the figures in the manifest, and check that its file is intact.

    Variants whose int8 sums saturate on this processor (x86 without VNNI) are skipped.

    Args:
        path: a directory written by `modelpress bundle`.
        prefer: fastest, smallest or accurate.
        max_drop: largest acceptable drop in accuracy from the uncompressed model, as a share: 0.01 is a
            point.

    Raises:
        ModelError: if there is no such directory, `prefer` is unknown, no variant qualifies, or the file
            doesn't match the manifest.
    """
    directory = Path(path)
    if prefer not in _PREFERENCES:
        raise ModelError(f"prefer: unknown value {prefer!r}{did_you_mean(prefer, _PREFERENCES)}")
    known = _variants(directory)
    entries = list(known)
    if sums_are_exact(environment().instruction_sets) is False:
        entries = [each for each in entries if each.accuracy_holds != HOLDS_WITH_EXACT_SUMS]
        if not entries:
            raise ModelError(
                f"{directory}: this processor has no VNNI, so the int8 sums of every variant can saturate; "
                "add a variant with reduce_range: true"
            )
    if max_drop is not None:
        least = min(each.drop for each in entries)
        entries = [each for each in entries if each.drop <= max_drop]
        if not entries:
            raise ModelError(
                f"max_drop: no variant in {directory} loses at most {max_drop:g}; the best loses {least:.4f}"
            )
    chosen = min(entries, key=_PREFERENCES[prefer])
    _check_whole(chosen, _manifest(directory))
    return chosen


def _manifest(directory: Path) -> dict[str, Any]:
    try:
        found = read_json(directory / "manifest.json")
    except FileNotFoundError as error:
        raise ModelError(f"{directory} has no manifest.json; give what modelpress bundle wrote") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{directory / 'manifest.json'}: cannot be read: {error}") from error
    if not isinstance(found, dict) or not found.get("variants"):
        raise ModelError(
            f"{directory} contains one model, not variants; open its onnx/model.onnx, or combine several "
            "runs with modelpress bundle"
        )
    return found


def _variants(directory: Path) -> Sequence[Variant]:
    try:
        return [
            Variant(
                name=each["name"],
                path=directory / each["file"],
                size_bytes=each["size_bytes"],
                accuracy=each["accuracy"]["value"],
                drop=-each["accuracy"]["difference"],
                speedup=each["latency"][0]["speedup"],
                accuracy_holds=each["figures_hold"]["accuracy"],
                perplexity=each.get("perplexity"),
            )
            for each in _manifest(directory)["variants"]
        ]
    except (KeyError, IndexError, TypeError) as error:
        raise ModelError(f"{directory / 'manifest.json'}: incomplete list of variants: {error!r}") from error


def _check_whole(variant: Variant, manifest: dict[str, Any]) -> None:
    name = f"onnx/{variant.path.name}"
    if not variant.path.is_file():
        raise ModelError(f"{variant.path} is missing, although manifest.json names it; copy the bundle again")
    with variant.path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != manifest["sha256"].get(name):
        raise ModelError(
            f"{variant.path} is damaged or was changed (its SHA-256 is not that in manifest.json); copy the "
            "bundle again"
        )
