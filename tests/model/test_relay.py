"""Passes that go on from the last settled block give what passes from the beginning give, bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress.data import Splits
from compress.model.observe.capture import inputs_at
from compress.model.observe.relay import Relay
from compress.quantize.calibrate import SharedInput

DRAW = torch.Generator().manual_seed(0)
BATCHES = [{"x": torch.randn(3, 4, generator=DRAW)}, {"x": torch.randn(2, 4, generator=DRAW)}]


class Block(nn.Module):
    """Counts how often it runs."""

    def __init__(self, pair: bool = False) -> None:
        super().__init__()
        self.up, self.down, self.pair, self.runs = nn.Linear(4, 4), nn.Linear(4, 4), pair, 0

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, None]:
        self.runs += 1
        out: Tensor = x + self.down(torch.relu(self.up(x)))
        return (out, None) if self.pair else out


class Chain(nn.Module):
    """First, three blocks, and last; `how` says what else passes between the blocks."""

    def __init__(self, how: str = "plain") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)
        shared = Block()
        self.blocks = nn.ModuleList(shared if how == "one" else Block(how == "pair") for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        seen = []
        for block in self.blocks:
            x = block(x)[0] if self.how == "pair" else block(x)
            seen.append(x)
        answer: Tensor = self.last(sum(seen) if self.how == "all" else x)
        return answer


def places(model: nn.Module) -> list[SharedInput]:
    names = ["first", *(f"blocks.{i}.{part}" for i in range(3) for part in ("up", "down")), "last"]
    return [SharedInput((name,)) for name in names]


def batches() -> Iterator[dict[str, Tensor]]:
    yield from BATCHES


@pytest.mark.parametrize("how", ["plain", "pair"])
def test_inputs_are_those_of_a_pass_from_the_beginning_though_settled_blocks_do_not_run(
    how: str, tmp_path: Path
) -> None:
    model = Chain(how).eval()
    relay = Relay(model, places(model), batches, tmp_path)
    assert relay.blocks == list(model.blocks)
    for place in places(model):
        found = list(relay.inputs_at(place))
        expected = [inputs_at(model, [place], batch)[0] for batch in BATCHES]
        assert all(torch.equal(*each) for each in zip(found, expected, strict=True))
        with torch.no_grad():  # as choosing integers does; what was settled before must not be asked again
            model.get_submodule(place.consumer).weight.mul_(0.9)
    assert len(list(tmp_path.iterdir())) == len(BATCHES), "only what the last settled block returned is kept"


def test_blocks_run_a_number_of_times_that_does_not_grow_with_the_depth(tmp_path: Path) -> None:
    model = Chain().eval()
    relay = Relay(model, places(model), batches, tmp_path)
    for block in model.blocks:
        block.runs = 0
    for place in places(model):
        list(relay.inputs_at(place))
    # Each for its own two places and once to keep what it returns, for each of two batches.
    assert [block.runs for block in model.blocks] == [6, 6, 6]


@pytest.mark.parametrize("how", ["all", "one"])
def test_a_model_that_needs_more_than_the_last_output_is_run_from_its_beginning(
    how: str, tmp_path: Path
) -> None:
    """The sum of all blocks' outputs is needed; or one block runs three times."""
    model = Chain(how).eval()
    relay = Relay(model, places(model), batches, tmp_path)
    assert relay.blocks == []
    for place in places(model):
        expected = [inputs_at(model, [place], batch)[0] for batch in BATCHES]
        assert all(torch.equal(*each) for each in zip(relay.inputs_at(place), expected, strict=True))
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_list_of_blocks_is_run_from_its_beginning(tmp_path: Path) -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.only = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.only(x))

    relay = Relay(Plain(), [SharedInput(("only",))], batches, tmp_path)
    (first, second) = relay.inputs_at(SharedInput(("only",)))
    assert relay.blocks == [] and torch.equal(first, BATCHES[0]["x"]) and torch.equal(second, BATCHES[1]["x"])


def test_the_blocks_of_the_models_here_and_of_bert_are_found(
    model: nn.Module, text_model: nn.Module, splits: Splits, text_splits: Splits, tmp_path: Path
) -> None:
    cases: list[tuple[nn.Module, Splits, str, str]] = [
        (model, splits, "layers.1.feed_forward.up", "layers"),
        (text_model, text_splits, "bert.encoder.layer.1.output.dense", "bert.encoder.layer"),
    ]
    for each, data, name, blocks in cases:
        relay = Relay(each.eval(), [SharedInput((name,))], _batches_of(data), tmp_path / blocks)
        assert relay.blocks == list(each.get_submodule(blocks))  # type: ignore[call-overload]


def _batches_of(data: Splits) -> Callable[[], Iterator[dict[str, Tensor]]]:
    names = data.task.input_names

    def drawn() -> Iterator[dict[str, Tensor]]:
        for batch in data.validation.batches(4):
            yield {name: torch.from_numpy(batch[name]) for name in names}

    return drawn
