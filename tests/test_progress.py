"""Progress as lines of text: few, with the time left, and the same where one process shows another's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compress.cli import main
from compress.progress import LineProgress


class _Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_long_bar_is_a_line_every_half_minute_with_the_time_left() -> None:
    clock, lines = _Clock(), list[str]()
    with LineProgress(lines.append, clock=clock).bar("timing", 100) as bar:
        for step in range(1, 101):
            clock.now += 3
            bar.advance(1, f"round {step}")
    assert lines[0] == "timing"
    assert len(lines) == 1 + 10
    assert lines[1] == "timing: 10 of 100, about 4 min left, round 10"  # 90 steps of 3 s
    assert lines[9] == "timing: 90 of 100, about 30 s left, round 90"
    assert lines[10] == "timing: 100 of 100, round 100"


def test_each_epoch_is_a_line_unless_epochs_are_short() -> None:
    clock, lines = _Clock(), list[str]()
    with LineProgress(lines.append, clock=clock).bar("training", 40) as bar:
        for epoch in range(1, 5):
            for _ in range(10):
                clock.now += 0.7
                bar.advance(1, "a step")
            bar.advance(0, f"epoch {epoch}")
        for _ in range(10):
            bar.advance(0, "an epoch of no time")
    assert [line.rpartition(", ")[2] for line in lines] == [
        "training",
        "epoch 1",
        "epoch 2",
        "epoch 3",
        "epoch 4",
    ]
    assert lines[2] == "training: 20 of 40, about 14 s left, epoch 2"


def test_steps_of_an_earlier_run_do_not_make_the_time_left_shorter() -> None:
    clock, lines = _Clock(), list[str]()
    with LineProgress(lines.append, clock=clock).bar("training", 1000) as bar:
        bar.advance(900, "resuming at epoch 10")
        clock.now += 3600
        bar.advance(50)
    assert lines[1].startswith("training: 950 of 1,000, about 1 h 0 min left")


def test_a_short_bar_is_one_line_and_nothing_is_said_twice() -> None:
    clock, lines = _Clock(), list[str]()
    progress = LineProgress(lines.append, clock=clock)
    for _ in range(3):
        with progress.bar("calibrating", 2) as bar:
            bar.advance(1)
            bar.advance(1)
    progress.say("stage x")
    progress.say("stage x")
    assert lines == ["calibrating", "stage x"]


def test_a_live_bar_is_shown_several_times_a_second_and_writes_no_line() -> None:
    clock, lines, now, steps = _Clock(), list[str](), list[str](), list[int]()
    progress = LineProgress(lines.append, now=now.append, on_step=lambda: steps.append(1), clock=clock)
    with progress.bar("training", 20) as bar:
        for _ in range(20):
            clock.now += 0.15
            bar.advance(1, "a step")
    progress.say("done")
    assert lines == ["done"]
    assert len(steps) == 20
    assert now[:2] == ["training", "training: 2 of 20, about 3 s left, a step"]
    assert len(now) == 1 + 10


def test_a_run_into_a_file_prints_lines_without_escape_codes_and_none_with_quiet(
    write_recipe: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", name="tiny")

    def run(*options: str) -> str:
        code = main(["run", str(recipe), "-o", str(tmp_path / "out"), *options])
        shown = capfd.readouterr()
        assert code == 0, shown.err
        return shown.out

    shown = run()
    assert "\x1b" not in shown and "\r" not in shown
    for line in ("training the model", "stage quantize/int8_dynamic", "measure"):
        assert line in shown.splitlines()
    quiet = run("--quiet", "--overwrite")
    assert "stage quantize" not in quiet and "measure" not in quiet.splitlines()
    assert "test rows" in quiet  # what came of it
