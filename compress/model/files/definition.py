"""Definition: how a module was built, as data, so that a cut or quantized one can be rebuilt and loaded.

Three kinds: a Python file with a builder, a Hugging Face configuration, and a name of timm. A model file is
code: building runs it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import linecache
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from compress.errors import ModelError, did_you_mean
from compress.model.files.adapted import adapted_
from compress.model.files.computed_weights import plain_weights_
from compress.model.files.embedder import Embedder
from compress.model.files.hf.own_code import NAMES_CODE
from compress.model.files.timm_files import timm_model
from compress.tasks.registry import FIRST_HEAD, head_of_name

__all__ = [
    "Definition",
    "HeadName",
    "add_dense_",
    "attach_definition_",
    "auto_class",
    "definition_of",
    "pooler_options",
    "seeded",
    "turn_",
]

HeadName = str
"""Name of a `tasks.spec.HubHead`: kind of output of a Hugging Face model, as the library groups classes."""

_ATTRIBUTE = "_modelpress_definition"


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's random numbers inside the block; the caller's generator is unaffected."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


@dataclass(frozen=True)
class Definition:
    """How to build a module with fresh weights.

    Attributes:
        kind: file, hf or timm.
        args: the builder's keyword arguments, or the Hugging Face configuration.
        builder: name of the builder in the file, or of the model in timm.
        code: text of the file.
        file_name: name of the file, for messages.
        head: kind of output of a Hugging Face model.
        tail: arguments of `Embedder`, if the model is the encoder of one; empty: it is not.
    """

    kind: Literal["file", "hf", "timm"]
    args: Mapping[str, Any]
    builder: str = ""
    code: str = ""
    file_name: str = ""
    head: HeadName = FIRST_HEAD
    tail: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_file(cls, path: Path, builder: str, args: Mapping[str, Any]) -> Definition:
        """Read a model file.

        Raises:
            ModelError: the file is missing or is not text.
        """
        try:
            code = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"cannot read model file {path}: {error}") from error
        return cls("file", dict(args), builder=builder, code=code, file_name=path.name)

    def build(self, *, seed: int = 0, plain: bool = True) -> nn.Module:
        """Build the module with random weights from a seed, in eval mode.

        Args:
            plain: replace weights that are computed from others (see `computed_weights`).

        Raises:
            ModelError: the file raises, lacks the builder, or the arguments don't fit; or a layer is lazy.
        """
        with seeded(seed):
            module = self._build_module()
        _check_initialised(module)
        attach_definition_(module, self)
        return plain_weights_(module.eval()) if plain else module.eval()

    def _build_module(self) -> nn.Module:
        if self.kind == "timm":
            return timm_model(self.builder, self.args)
        return self._build_hf() if self.kind == "hf" else self._build_file()

    def _build_hf(self) -> nn.Module:
        transformers = _transformers()
        config = {name: value for name, value in self.args.items() if name not in NAMES_CODE}
        model_type = config.pop("model_type")
        try:
            parsed = transformers.AutoConfig.for_model(model_type, **config)
            options = pooler_options(self.head, parsed)
            module: nn.Module = auto_class(self.head).from_config(parsed, attn_implementation=None, **options)
        except Exception as error:  # of transformers or huggingface_hub; the same to a user
            said = " ".join(str(error).split())
            raise ModelError(f"cannot build a {model_type} model from its configuration: {said}") from error
        return Embedder(adapted_(module), **self.tail) if self.tail else adapted_(module)

    def _build_file(self) -> nn.Module:
        builder = self.load_builder()
        try:
            inspect.signature(builder).bind(**self.args)
        except TypeError as error:
            allowed = [name for name in inspect.signature(builder).parameters]
            unknown = [name for name in self.args if name not in allowed]
            hint = did_you_mean(unknown[0], allowed) if unknown else ""
            raise ModelError(f"{self.file_name}: {self.builder}(): {error}{hint}") from error
        try:
            module = builder(**self.args)
        except Exception as error:
            raise ModelError(
                f"{self.file_name}: {self.builder}() raised {type(error).__name__}: {error}"
            ) from error
        if not isinstance(module, nn.Module):
            raise ModelError(
                f"{self.file_name}: {self.builder}() returned {type(module).__name__}, not a torch.nn.Module"
            )
        return module

    def load_builder(self) -> Any:
        """Run a definition's file, once per process, and return its builder.

        Raises:
            ModelError: the file raises, or lacks the builder.
        """
        # Named by content, so that two files of the same name don't collide in sys.modules.
        name = f"_modelpress_model_{hashlib.sha256(self.code.encode()).hexdigest()[:16]}"
        # Lets tracebacks show the source line: the file may be in another folder, or in a bundle.
        lines = self.code.splitlines(keepends=True)
        linecache.cache[self.file_name] = (len(self.code), None, lines, self.file_name)
        if name not in sys.modules:
            spec = importlib.util.spec_from_loader(name, loader=None)
            assert spec is not None
            loaded = importlib.util.module_from_spec(spec)
            loaded.__file__ = self.file_name
            sys.modules[name] = loaded  # before exec: dataclasses look up their module
            try:
                exec(compile(self.code, self.file_name, "exec"), loaded.__dict__)
            except Exception as error:
                del sys.modules[name]
                line = _line_in(self.file_name, error)
                raise ModelError(f"{self.file_name}{line} raised {type(error).__name__}: {error}") from error
        module = sys.modules[name]
        if not callable(getattr(module, self.builder, None)):
            builders = [
                key
                for key, value in vars(module).items()
                if callable(value) and getattr(value, "__module__", "") == name and not key.startswith("_")
            ]
            raise ModelError(
                f"{self.file_name} has no builder '{self.builder}'{did_you_mean(self.builder, builders)}"
            )
        return getattr(module, self.builder)

    def changed(self, changes: Mapping[str, Any]) -> Definition:
        """Return this definition with some arguments changed, e.g. for a student.

        Raises:
            ModelError: the builder or the configuration has no such argument.
        """
        allowed = self.argument_names()
        for name in changes:
            if name not in allowed:
                raise ModelError(f"the model has no argument '{name}'{did_you_mean(name, allowed)}")
        return replace(self, args={**self.args, **changes})

    def argument_names(self) -> list[str]:
        """Names of all arguments that can be changed."""
        if self.kind != "file":
            return sorted(self.args)
        return sorted(inspect.signature(self.load_builder()).parameters)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for structure.json; the code is kept in its own file."""
        common = {"kind": self.kind, "args": dict(self.args)}
        if self.kind == "hf":
            tail = {"tail": dict(self.tail)} if self.tail else {}
            return {**common, "head": self.head, **tail}
        named = {"file_name": self.file_name} if self.kind == "file" else {}
        return {**common, "builder": self.builder, **named}

    def fingerprint(self) -> str:
        """SHA-256 over code and arguments, hexadecimal."""
        parts = [self.kind, self.builder, self.code, dict(self.args), self.head]
        parts += [dict(self.tail)] if self.tail else []
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def attach_definition_(module: nn.Module, definition: Definition) -> None:
    """Store on the module how it was built; a deep copy keeps it."""
    object.__setattr__(module, _ATTRIBUTE, definition)


def add_dense_(embedder: Embedder, weight: Tensor) -> None:
    """Add a linear layer at the end of an embedder, also to its definition."""
    layer, definition = embedder.add_dense_(weight), definition_of(embedder)
    if definition is not None:
        tail = {**definition.tail, "dense": [*definition.tail["dense"], layer]}
        attach_definition_(embedder, replace(definition, tail=tail))


def turn_(embedder: Embedder, weight: Tensor) -> None:
    """Multiply an embedder's vectors by a weight [e', e] before normalization, also in its definition."""
    if not embedder.turn_(weight):
        add_dense_(embedder, weight)
        return
    definition = definition_of(embedder)
    if definition is not None:
        *others, last = definition.tail["dense"]
        tail = {**definition.tail, "dense": [*others, {**last, "out_features": len(weight)}]}
        attach_definition_(embedder, replace(definition, tail=tail))


def definition_of(module: nn.Module) -> Definition | None:
    """Return how the module was built, or None for a module that modelpress did not build."""
    found = getattr(module, _ATTRIBUTE, None)
    return found if isinstance(found, Definition) else None


def _check_initialised(module: nn.Module) -> None:
    for path, child in module.named_modules():
        for name, tensor in (*child.named_parameters(recurse=False), *child.named_buffers(recurse=False)):
            if is_lazy(tensor):
                raise ModelError(
                    f"{path or 'the model'} is {type(child).__name__}: its {name} has no shape yet; give "
                    "its sizes, as in nn.Linear(in_features, out_features), or run the module once in the "
                    "builder"
                )


def _line_in(file_name: str, error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f":{error.lineno}"
    trace, line = error.__traceback__, ""
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file_name:
            line = f":{trace.tb_lineno}"
        trace = trace.tb_next
    return line


def auto_class(head: HeadName) -> Any:
    """The transformers class that builds and loads models with such a head."""
    return getattr(_transformers(), head_of_name(head).auto_class)


def pooler_options(head: HeadName, settings: Any) -> dict[str, Any]:
    """Options that leave out a pooler whose output nobody reads, where a bare encoder would have one.

    Args:
        settings: the encoder's configuration.
    """
    if not head_of_name(head).is_bare:
        return {}
    kind = getattr(auto_class(head), "_model_mapping", {}).get(type(settings), None)
    has_one = kind is not None and "add_pooling_layer" in inspect.signature(kind).parameters
    return {"add_pooling_layer": False} if has_one else {}


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ModelError("Hugging Face models need the hf extra: pip install 'modelpress[hf]'") from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers
