"""Do the 95 % intervals hold what they claim? Known differences are planted, and measured again and again.

    python tests/benchmarks/trust.py MODEL.onnx [--times 20] [--rounds 9] [--seconds 0.25] [--sequence 32]
        [--threads 1]

Speed: one file, called more or less often in a turn, so that the true ratio is known: 1, 1.1, 1.5 and 2. A
ratio of 1 whose interval leaves out 1 is a false alarm. Accuracy: answers of two models that are wrong at
known rates, and both wrong on a known share of rows; 2,000 draws of each number of rows.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from compress.measure import create_session
from compress.measure.latency import Rounds, compare_latency
from compress.measure.made_inputs import inputs_of, made_batch
from compress.tasks import Classification, flat_truth
from compress.timing import Setting

RATIOS = ((1, 1), (11, 10), (3, 2), (2, 1))
DRAWS = 2_000


class Repeated:
    """A session that does its work several times in one call."""

    def __init__(self, session: Any, times: int) -> None:
        self._session, self._times = session, times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, *given: Any) -> Any:
        """The last answer of all."""
        for _ in range(self._times - 1):
            self._session.run(*given)
        return self._session.run(*given)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.25)
    parser.add_argument("--sequence", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    print_accuracy()
    print_speed(given)


def print_accuracy() -> None:
    """Coverage of the paired interval, and false alarms, for errors that two models share or don't."""
    print("| rows | true difference | interval holds it | says a difference | median width, points |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    draw = np.random.default_rng(0)
    for rows in (100, 500, 1_000, 5_000):
        for lost, gained in ((0.03, 0.03), (0.04, 0.02), (0.06, 0.02)):
            held = alarms = 0
            widths = []
            for _ in range(DRAWS):
                luck = draw.random(rows)
                labels = np.zeros(rows, dtype=np.int64)
                both_wrong = luck > 0.85
                baseline = (both_wrong | (luck < gained)).astype(np.int64)
                candidate = (both_wrong | ((luck >= gained) & (luck < gained + lost))).astype(np.int64)
                found = Classification(()).difference(baseline, candidate, flat_truth(labels, None))
                held += found.low <= gained - lost <= found.high
                alarms += not found.low <= 0 <= found.high
                widths.append(100 * (found.high - found.low))
            shares = f"{held / DRAWS:.1%} | {alarms / DRAWS:.1%}"
            truth = f"{100 * (gained - lost):+.0f} points"
            print(f"| {rows:,} | {truth} | {shares} | {np.median(widths):.1f} |", flush=True)
    print()


def print_speed(given: argparse.Namespace) -> None:
    """Coverage of the speed-up's interval on this machine, now."""
    batch, length = made_batch(
        given.model, inputs_of(given.model), batch=1, sequence=given.sequence, fixed=True
    )
    session = create_session(given.model, threads=given.threads)
    print("| true ratio | interval holds it | says a difference | medians | median width |")
    print("| ---: | ---: | ---: | --- | ---: |")
    for slow, fast in RATIOS:
        truth = slow / fast
        found = [
            compare_latency(
                Repeated(session, slow),
                Repeated(session, fast),
                batch,
                Setting(batch=1, sequence=length, threads=given.threads),
                Rounds(given.rounds, given.seconds, seed=time),
            )
            for time in range(given.times)
        ]
        held = sum(x.speedup_low <= truth <= x.speedup_high for x in found)
        alarms = sum(not x.speedup_low <= 1 <= x.speedup_high for x in found)
        values = [x.speedup for x in found]
        width = float(np.median([x.speedup_high - x.speedup_low for x in found]))
        print(
            f"| {truth:.2f} | {held} of {given.times} | {alarms} of {given.times} | {min(values):.3f} to "
            f"{max(values):.3f} | {width:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
