"""Load the model of a recipe's `model:` section: a file with a builder, a Hub or timm model, or a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from compress.data.readers.image_processor import PIXELS, PREPROCESSOR_FILE, ImageProcessor
from compress.data.readers.tokenize import TextEncoder
from compress.errors import ModelError, shortened
from compress.model.files.adapted import adapted_
from compress.model.files.computed_weights import plain_weights_
from compress.model.files.config import ModelConfig
from compress.model.files.definition import (
    Definition,
    attach_definition_,
    auto_class,
    definition_of,
)
from compress.model.files.embedder_files import check_case, load_embedder
from compress.model.files.hf.directory import (
    architectures_of,
    check_head,
    config_json,
    file_of,
    outputs_of,
    settings_of,
)
from compress.model.files.hf.directory import explained as _explained
from compress.model.files.hf.gguf import directory_of_gguf
from compress.model.files.hf.own_code import own_code_note
from compress.model.files.hf.own_tokenizer import (
    check_padding,
    named_inputs,
    tokenizer_directory,
    tokenizer_of,
)
from compress.model.files.hf.plain_config import plain_config
from compress.model.files.hf.served_tasks import no_classes
from compress.model.files.save import load_module
from compress.model.files.tensors import check_tensors
from compress.model.files.timm_files import TimmWeights, timm_processor
from compress.model.forward import accepted_inputs
from compress.system.files import read_json
from compress.tasks import TASKS, Task, TaskName, task_class
from compress.tasks.registry import all_heads, decoder_task, default_task, marked_task, task_of_architectures
from compress.tasks.spec import HubHead

__all__ = ["LoadedModel", "load", "load_model", "own_entries", "task_of"]


@dataclass(frozen=True)
class LoadedModel:
    """A module and what belongs to it.

    Attributes:
        source: one readable line: what the model is and where it comes from.
        tokenizer: directory with tokenizer.json and its settings, for a model that reads text.
        label_order: class names by index, if the model has them.
        text_inputs: names of the inputs that a tokenizer must provide.
        processor: how images are read, for a model that reads them.
        longest: most tokens of a text by the model's own settings; None: they don't say.
        texts: texts of a row that a bundle was made for, if its manifest says so; None: it doesn't.
        has_trained_head: False if the classification head is new and `num_labels` wide.
        notes: notes for the report, one sentence each.
    """

    module: nn.Module
    source: str
    tokenizer: Path | None
    label_order: tuple[str, ...] | None
    text_inputs: tuple[str, ...]
    processor: ImageProcessor | None = None
    has_trained_head: bool = True
    notes: tuple[str, ...] = ()
    longest: int | None = None
    texts: int | None = None

    def __post_init__(self) -> None:
        """Refuse duplicate class names."""
        names = self.label_order or ()
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ModelError(
                f"two of the {len(names)} classes of {self.source} are named '{shortened(twice)}'; give "
                "each class its own name in id2label of config.json"
            )


def load_model(
    config: ModelConfig,
    *,
    seed: int,
    scratch: Path,
    num_labels: int | None = None,
    task: TaskName | None = None,
    for_training: bool = False,
) -> LoadedModel:
    """Load or build the model of a recipe.

    Args:
        seed: for random weights, where no trained ones exist.
        scratch: directory for tokenizer files.
        num_labels: number of classes in the data, for a Hugging Face model without a classification head.
        task: task of a Hugging Face model; None: single-label classification.
        for_training: keep weights that are computed from others; see `computed_weights`.

    Raises:
        ModelError: it can't be loaded; the message gives the reason and a remedy.
    """
    if config.bundle is not None:
        loaded = _from_bundle(config.bundle, task)
    elif config.hf is not None:
        kind = task_class(task or default_task("labelled"))
        loaded = _from_hf(config, seed=seed, scratch=scratch, num_labels=num_labels, kind=kind)
    elif config.timm is not None:
        loaded = _from_timm(config, seed=seed, num_labels=num_labels)
    else:
        loaded = _from_file(config, seed=seed, scratch=scratch)
    _own_storage_(loaded.module)
    if not for_training:
        plain_weights_(loaded.module)
    return loaded


def _own_storage_(module: nn.Module) -> None:
    """Copy parameters that are views of a larger tensor, which a weight file can't hold.

    transformers leaves such views where it splits a checkpoint's fused queries, keys and values.
    """
    for each in module.parameters():
        made = not isinstance(each, UninitializedParameter)
        if made and each.untyped_storage().nbytes() > each.numel() * each.element_size():
            each.data = each.data.clone()


def _from_file(config: ModelConfig, *, seed: int, scratch: Path) -> LoadedModel:
    assert config.file is not None and config.builder is not None
    definition = Definition.from_file(config.file, config.builder, config.args)
    module = definition.build(seed=seed, plain=False)
    tokenizer = tokenizer_directory(config.tokenizer, scratch) if config.tokenizer else None
    inputs = accepted_inputs(module, None if tokenizer is None else named_inputs(tokenizer))
    return LoadedModel(module, f"{config.file.name}: {config.builder}", tokenizer, None, inputs)


def task_of(config: ModelConfig) -> TaskName:
    """Task of a model given as files, read from these; the task of labelled rows if they don't say.

    Raises:
        ModelError: a Hugging Face directory or name has no readable config.json.
    """
    found: TaskName | None
    settings = own_entries(config)
    if config.bundle is not None:
        found = _named_task(settings)
    elif Path(config.hf or "").suffix == ".gguf":
        found = decoder_task()
    else:
        problem = settings.get("problem_type")
        found = task_of_architectures(architectures_of(settings), problem, outputs_of(settings))
        found = found or marked_task(lambda file: file_of(config.hf or "", file) is not None)
    return found or default_task("labelled")


def _named_task(manifest: Mapping[str, Any]) -> TaskName | None:
    named = manifest.get("task")
    return named if isinstance(named, str) and named in TASKS else None


def own_entries(config: ModelConfig) -> dict[str, Any]:
    """The manifest of a bundle, or config.json of a Hugging Face model; empty if it has neither.

    Raises:
        ModelError: a Hugging Face directory or name has no readable config.json.
    """
    if config.bundle is None:
        return (
            {} if Path(config.hf or "").suffix == ".gguf" else config_json(config.hf or "", is_needed=False)
        )
    try:
        found = read_json(config.bundle / "manifest.json")
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def load(path: str | Path) -> nn.Module:
    """Load the PyTorch module of a bundle, quantized or cut as saved, in eval mode.

    A bundle of a file model contains the file (pytorch/definition.py), and loading runs it: load only bundles
    that you trust. Weights are read without running code.

    Raises:
        ModelError: the directory is not a bundle, or a file in it is missing or corrupt.
    """
    directory = Path(path)
    if not (directory / "manifest.json").is_file():
        raise ModelError(f"{directory} is not a bundle: it has no manifest.json")
    if not (directory / "pytorch").is_dir():
        raise ModelError(
            f"{directory} has ONNX files but no PyTorch module, like the output of `modelpress bundle`; "
            "give the directory of a run instead"
        )
    return load_module(directory / "pytorch")


def _from_bundle(directory: Path, task: TaskName | None) -> LoadedModel:
    module = load(directory)
    file = directory / "manifest.json"
    named = _named_task(own_entries(ModelConfig(bundle=directory)))
    if task is not None and named is not None and named != task:
        raise ModelError(
            f"{directory} is a {task_class(named).words.model} (task in its manifest.json), but the data is "
            f"for a {task_class(task).words.model}",
            see="reference/tasks",
        )
    try:
        manifest = read_json(file)
        names = tuple(spec["name"] for spec in manifest["inputs"])
        channels = next((spec["shape"][1] for spec in manifest["inputs"] if spec["name"] == PIXELS), 3)
        labels, texts = tuple(manifest["labels"]), manifest.get("texts")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"cannot read {file}: {type(error).__name__}: {error}") from error
    _check_bundle(directory, module, labels, named or task)
    tokenizer = directory if (directory / "tokenizer.json").is_file() else None
    images = directory / PREPROCESSOR_FILE
    return LoadedModel(
        module,
        f"bundle {directory.name}",
        tokenizer,
        labels,
        names if tokenizer else (),
        ImageProcessor.from_file(images, channels=channels) if images.is_file() else None,
        texts=texts if isinstance(texts, int) else None,
    )


def _check_bundle(directory: Path, module: nn.Module, labels: tuple[str, ...], task: TaskName | None) -> None:
    """Refuse what an older version exported as a classifier but isn't one."""
    definition = definition_of(module)
    problem = None if definition is None else definition.args.get("problem_type")
    kind = task_class(task or default_task("labelled"))
    refusal = no_classes(str(directory), problem, len(labels), kind.head_for("text")) if labels else None
    if refusal is not None:
        raise ModelError(refusal, see="reference/tasks")


def _from_hf(
    config: ModelConfig, *, seed: int, scratch: Path, num_labels: int | None, kind: type[Task]
) -> LoadedModel:
    from compress.model.files.definition import seeded

    name = config.hf
    assert name is not None
    short = Path(name).name if Path(name).exists() else name
    bare = kind.head_for("text")
    if bare is not None and bare.is_bare:
        return _from_encoder(config, bare, short, scratch)
    if config.pooling is not None:
        raise ModelError(
            f"model.pooling makes a sentence embedder of {name}, but the data is for a {kind.words.model}; "
            f"omit it, or set data.task={' or '.join(each for each, known in all_heads() if known.is_bare)}"
        )
    if Path(name).suffix == ".gguf" and Path(name).is_file():
        name = str(directory_of_gguf(Path(name), scratch))
    given = config_json(name)
    settings: Any = settings_of(name, given)
    head = kind.head_for("image")
    if head is None or not _is_for_images(settings):
        head = kind.head_for("text")
    if head is None:
        raise ModelError(f"{name}: Hugging Face has no models for the task {kind.name}")
    trained_head, notes = check_head(name, settings, head, is_trained_first=config.train is not None)
    notes += own_code_note(given)
    with seeded(seed):
        module = _pretrained(name, head, trained_head=trained_head, num_labels=num_labels)
    if kind.keeps_past:
        module.config.use_cache = False  # type: ignore[union-attr]  # a past is passed explicitly
    plain = plain_config(module.config)
    if head.modality == "image":  # DeiT has two classes with such a head
        plain["architectures"] = [type(module).__name__]
    attach_definition_(adapted_(module), Definition("hf", plain, head=head.name))
    labels = settings.id2label if trained_head and not kind.names_tokens else {}
    order = tuple(str(labels[index]) for index in sorted(labels)) or None
    if head.modality == "image":
        processor = _image_processor(name, settings)
        source = f"Hugging Face {settings.model_type} '{short}'"
        return LoadedModel(module.eval(), source, None, order, (), processor, trained_head, notes)
    tokenizer, inputs = tokenizer_of(name, scratch)
    if not kind.keeps_past:
        check_padding(name, module.eval(), TextEncoder.from_directory(tokenizer).pad_id)
    return LoadedModel(
        module.eval(),
        f"Hugging Face {settings.model_type} '{short}'",
        tokenizer,
        order,
        ("input_ids", "attention_mask") if kind.keeps_past else accepted_inputs(module, inputs),
        has_trained_head=trained_head,
        notes=notes,
    )


def _from_timm(config: ModelConfig, *, seed: int, num_labels: int | None) -> LoadedModel:
    """A model of timm with weights of a file, of timm, or random ones."""
    name = config.timm
    assert name is not None
    found = TimmWeights.of(name, config.weights, config.args, num_labels, trains=config.train is not None)
    module = Definition("timm", found.args, builder=name).build(seed=seed, plain=False)
    found.load_(module)
    rebuilt = {key: value for key, value in found.args.items() if key != "pretrained"}
    attach_definition_(module, Definition("timm", rebuilt, builder=name))
    return LoadedModel(
        module,
        f"timm {name}",
        None,
        None,
        (),
        timm_processor(module),
        found.has_trained_head,
        found.notes,
    )


def _from_encoder(config: ModelConfig, head: HubHead, short: str, scratch: Path) -> LoadedModel:
    """An encoder with what makes vectors of its hidden states."""
    found = load_embedder(config, head)
    tokenizer, inputs = tokenizer_of(found.folder, scratch)
    encoder = TextEncoder.from_directory(tokenizer)
    if found.chain.lower_case:
        check_case(short, encoder.tokenizer)
    check_padding(found.folder, found.module, encoder.pad_id)
    return LoadedModel(
        found.module,
        f"Hugging Face {found.model_type} '{short}' with {found.module.pooling} pooling",
        tokenizer,
        None,
        accepted_inputs(found.module, inputs),
        notes=found.notes,
        longest=found.chain.longest,
    )


def _pretrained(name: str, head: HubHead, *, trained_head: bool, num_labels: int | None) -> nn.Module:
    """Load a checkpoint's weights in float32; a head that it lacks is random, of `num_labels` outputs."""
    options: dict[str, Any] = {} if trained_head or num_labels is None else {"num_labels": num_labels}
    if head.outputs is not None and not trained_head:
        # Of the old head, config.json may name a problem_type that a single output contradicts.
        settings = settings_of(name, config_json(name))
        settings.problem_type, settings.num_labels = head.problem_type, head.outputs
        options = {"config": settings}
    elif head.problem_type is not None:
        options["problem_type"] = head.problem_type
    module: nn.Module
    module, found = _explained(
        name,
        auto_class(head.name).from_pretrained,
        name,
        attn_implementation=None,  # the fastest that the architecture has: SDPA, or else eager
        dtype="float32",
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # refused by `check_tensors`, by name and with both shapes
        **options,
    )
    check_tensors(name, module, found, has_trained_head=trained_head)
    return module


def _is_for_images(settings: Any) -> bool:
    """Whether a configuration is of an image classifier, and not of a text classifier."""
    from transformers.models.auto import modeling_auto as known

    texts = known.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    images = known.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    return settings.model_type in images and settings.model_type not in texts


def _image_processor(name: str, settings: Any) -> ImageProcessor:
    """Processor from preprocessor_config.json; without it the model's own size, mean and std 0.5."""
    channels = int(getattr(settings, "num_channels", 3))
    file = file_of(name, PREPROCESSOR_FILE, must_know=True)
    if file is not None:
        return ImageProcessor.from_file(file, channels=channels)
    size = getattr(settings, "image_size", None)
    sides = (size, size) if isinstance(size, int) else tuple(size) if size is not None else None
    return ImageProcessor(channels=channels).changed(size=sides)
