"""Compare calibration rows: training rows, or no data (random tokens).

    python tests/benchmarks/calibration.py MODEL_DIR DATA_DIR [--rows 256] [--seeds 0 1 2] [--gptq]

MODEL_DIR is a Hugging Face classifier, DATA_DIR holds train.csv, validation.csv and test.csv (columns text
and label; test rows are not used). For each kind of rows, means over the seeds on validation rows: the share
of answers equal to fp32's, and the KL divergence from its probabilities. Calibration ignores labels, so
unlabelled training rows give the same as labelled ones.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor
from torch.nn import functional

from compress.data import FileData, TextEncoder, load_splits
from compress.model import ModelConfig, load_model, predict_logits
from compress.quantize.int8_static import Int8Static
from compress.quantize.weight_only import Int4WeightOnly
from compress.stage import Context, Stage


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--gptq", action="store_true", help="int4 by GPTQ too; minutes a seed")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        loaded = load_model(
            ModelConfig.model_validate({"hf": str(given.model)}), seed=0, scratch=Path(scratch)
        )
    assert loaded.tokenizer is not None
    encoder = TextEncoder.from_directory(loaded.tokenizer, input_names=loaded.text_inputs)
    files = {part: given.data / f"{part}.csv" for part in ("train", "validation", "test")}
    splits = load_splits(FileData.model_validate(files), reader=encoder, label_order=loaded.label_order)
    context = Context(splits.task, splits.train, splits.validation.by_length(), reader=encoder)
    exact = predict_logits(loaded.module, context.validation, splits.task)
    print("| stage | calibration | answers as fp32's | KL divergence |\n| --- | --- | ---: | ---: |")
    for name, stage in ways(given.rows, given.gptq).items():
        for source in ("train", "synthetic"):
            chosen = stage.model_copy(update={"calibration": source})
            found = [
                compared(exact, answers(chosen, loaded.module, replace(context, seed=seed)))
                for seed in given.seeds
            ]
            agreement, divergence = (mean(values) for values in zip(*found, strict=True))
            print(f"| {name} | {source} | {agreement:.1%} | {divergence:.2e} |", flush=True)


def ways(rows: int, gptq: bool) -> dict[str, Stage]:
    """What is calibrated."""
    found: dict[str, Stage] = {
        "int8_static, minmax": Int8Static(calibration_rows=rows),
        "int8_static, mse": Int8Static(calibration_rows=rows, range="mse"),
    }
    if gptq:
        found["int4, gptq"] = Int4WeightOnly(calibration_rows=rows, algorithm="gptq")
    return found


def answers(stage: Stage, model: torch.nn.Module, context: Context) -> Tensor:
    """Logits of the quantized model on validation rows, [n, c]."""
    return predict_logits(stage.apply(model, context).model, context.validation, context.task)


def compared(exact: Tensor, found: Tensor) -> tuple[float, float]:
    """Share of equal answers, and mean KL divergence."""
    logs = found.log_softmax(1), exact.log_softmax(1)
    divergence = functional.kl_div(*logs, log_target=True, reduction="batchmean")
    return float((exact.argmax(1) == found.argmax(1)).float().mean()), float(divergence)


if __name__ == "__main__":
    main()
