"""Public names are sorted, importable and where they are said to be; a stage leaves its input as it was."""

from __future__ import annotations

import ast
import copy
import pkgutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import compress
from compress.model.files.definition import Definition
from compress.registry import STAGES, stage_class, stage_names
from compress.stage import Context, Stage

from .sentence_folders import prepared_embedder

MODULES = sorted(
    m.name for m in pkgutil.walk_packages(compress.__path__, "compress.") if "__main__" not in m.name
)
PACKAGES = ["compress", *(m.name for m in pkgutil.walk_packages(compress.__path__, "compress.") if m.ispkg)]
RNN = Path(__file__).resolve().parents[1] / "models" / "rnn.py"
NEED_TEXT = ("prune/embeddings", "prune/vocabulary")
RECOVERY = {"epochs": 1, "batch_size": 32, "learning_rate": 1e-3, "precision": "fp32"}
SETTINGS: dict[str, dict[str, Any]] = {
    "prune/channels": {"sparsity": 0.5, "min_channels": 1, "calibration_rows": 32, "recovery": RECOVERY},
    "prune/magnitude": {"sparsity": 0.5, "recovery": RECOVERY},
    "prune/heads": {"sparsity": 0.5, "steps": 2, "recovery": RECOVERY},
    "prune/layers": {"layers": 1, "recovery": RECOVERY},
    "prune/structured": {
        "macs": 0.5,
        "calibration_rows": 32,
        "search_rows": 16,
        "search_steps": 3,
        "recovery": RECOVERY,
    },
    "prune/embeddings": {"rank": 3, "recovery": RECOVERY},
    "prune/vocabulary": {"recovery": RECOVERY},
    "prune/dimensions": {"keep": 8},
    "prune/width": {"width": 16, "recovery": RECOVERY},
    "quantize/float16": {},
    "quantize/mixed": {"sensitivity_rows": 32, "max_accuracy_drop": 0.99},
    "quantize/int8_dynamic": {"qat": RECOVERY},
    "quantize/int8_static": {"calibration_rows": 32},
    "quantize/int8_weight_only": {"zero_points": True, "algorithm": "hqq"},
    "quantize/int4_weight_only": {"algorithm": "gptq", "calibration_rows": 32, "bias_correction": True},
    "distill/logits": {"student": {"num_layers": 1}, "train": RECOVERY},
    "distill/student": {"student": {"layers": 1}, "train": RECOVERY},
}


@pytest.mark.parametrize("name", ["compress", *MODULES])
def test_public_names_are_sorted_and_there(name: str) -> None:
    module = import_module(name)
    offered = getattr(module, "__all__", None)
    if offered is None:  # a package that only holds files
        assert name in PACKAGES
        return
    assert list(offered) == sorted(set(offered))
    for public in offered:
        assert getattr(module, public) is not None


def test_compress_offers_what_its_homes_have() -> None:
    homes = {name for names in compress._HOMES.values() for name in names}
    assert sorted(homes) == compress.__all__ == dir(compress)
    for home, names in compress._HOMES.items():
        for name in names:
            assert getattr(compress, name) is getattr(import_module(f"compress.{home}"), name)


def test_type_checkers_see_the_same_names() -> None:
    for name in ("compress", "compress.model"):
        module = import_module(name)
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        seen = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("compress.")
            for alias in node.names
        }
        assert seen - {"__version__"} == set(module.__all__)


def test_a_name_that_is_not_offered_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'compress' has no attribute 'nothing'"):
        compress.nothing  # noqa: B018


@pytest.fixture(params=stage_names())
def stage(request: pytest.FixtureRequest) -> Stage:
    return stage_class(request.param)(**SETTINGS[request.param])


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Context]:
    return prepared_embedder(tmp_path_factory.mktemp("embedder"))


@pytest.fixture
def model(model: nn.Module, stage: Stage, request: pytest.FixtureRequest) -> nn.Module:
    """A model that the stage can work on, where it needs a vocabulary, or channels."""
    if stage.name == "prune/channels":
        args = {"input_dim": 4, "output_dim": 10, "hidden": 6, "num_layers": 2, "cell": "gru"}
        return Definition.from_file(RNN, "patch_classifier", args).build()
    if stage.name == "prune/dimensions":
        return copy.deepcopy(request.getfixturevalue("embedder")[0])
    return request.getfixturevalue("text_model") if stage.name in NEED_TEXT else model


@pytest.fixture
def context(context: Context, stage: Stage, request: pytest.FixtureRequest) -> Context:
    if stage.name == "prune/dimensions":
        found: Context = request.getfixturevalue("embedder")[1]
        return found
    return request.getfixturevalue("text_context") if stage.name in NEED_TEXT else context


def test_every_stage_has_settings_here() -> None:
    assert set(SETTINGS) == set(STAGES)


def test_a_stage_is_named_as_the_registry_names_it(stage: Stage) -> None:
    assert STAGES[stage.name] == f"{type(stage).__module__}:{type(stage).__name__}"
    assert stage.summary
    assert stage.name.split("/")[0] == stage.kind


@pytest.mark.parametrize("training", [True, False])
def test_apply_leaves_its_input_as_it_was(
    stage: Stage, model: nn.Module, context: Context, training: bool
) -> None:
    before = _picture(model.train(training))
    made = stage.apply(model, replace(context, teacher=copy.deepcopy(model))).model
    assert made is not model
    assert not made.training
    _assert_same(before, _picture(model))
    shared = {p.data_ptr() for p in model.parameters()} & {t.data_ptr() for t in made.state_dict().values()}
    assert not shared


def test_apply_leaves_its_teacher_as_it_was(stage: Stage, model: nn.Module, context: Context) -> None:
    teacher = copy.deepcopy(model).train()
    before = _picture(teacher)
    stage.apply(model, replace(context, teacher=teacher))
    _assert_same(before, _picture(teacher))


@pytest.mark.parametrize("training", [True, False])
def test_rehearse_leaves_its_input_as_it_was(stage: Stage, model: nn.Module, training: bool) -> None:
    before = _picture(model.train(training))
    stage.rehearse(model)
    _assert_same(before, _picture(model))


def test_rehearse_leaves_the_shapes_that_apply_leaves(
    stage: Stage, model: nn.Module, context: Context
) -> None:
    before, rehearsed, after = (
        sum(p.numel() for p in each.parameters())
        for each in (model, stage.rehearse(model), stage.apply(model, context).model)
    )
    if stage.kind == "quantize":  # nothing may come after it, so a float model does
        assert after < rehearsed == before
    elif stage.name in ("prune/vocabulary", "prune/structured"):  # only the rows can tell how much goes
        assert rehearsed <= before and after < before
    else:
        assert rehearsed == after


def _picture(model: nn.Module) -> dict[str, Any]:
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "kinds": {name: type(module) for name, module in model.named_modules()},
        "gradients": {
            name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()
        },
        "trainable": {name: p.requires_grad for name, p in model.named_parameters()},
        "hooks": {
            name: len(m._forward_pre_hooks) + len(m._forward_hooks) for name, m in model.named_modules()
        },
    }


def _assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    states = before.pop("state"), after.pop("state")
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert before == after
