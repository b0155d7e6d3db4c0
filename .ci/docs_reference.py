"""Writes the generated parts of docs/reference from the schemas and docstrings of the code.

    python .ci/docs_reference.py

A page is written by hand except for what is between `<!-- generated: NAME -->` and `<!-- end -->`.
tests/docs compares the pages with what this would write.
"""

from __future__ import annotations

import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "reference"
sys.path[:0] = [str(ROOT), str(ROOT / ".ci")]

_PART = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields|Class attributes):$", re.MULTILINE)


def main() -> int:
    """Rewrite the pages that are out of date."""
    for path, text in regenerated().items():
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return 0


def regenerated() -> dict[Path, str]:
    """Each page of the reference as it should be."""
    pages = sorted(PAGES.glob("*.md"))
    return {
        path: _PART.sub(
            lambda part: f"{part[1]}\n{PARTS[part[2]]().strip()}\n\n{part[3]}",
            path.read_text(encoding="utf-8"),
        )
        for path in pages
    }


# Recipe


def _recipe() -> str:
    from compress.recipe import Recipe

    return _settings(Recipe)


def _model() -> str:
    from compress.model.files.config import ModelConfig

    return _settings(ModelConfig)


def _train() -> str:
    from compress.train_config import TrainConfig

    return _settings(TrainConfig)


def _recovery() -> str:
    from compress.recovery import RecoveryConfig

    return _settings(RecoveryConfig)


def _qat() -> str:
    from compress.quantize.qat import QatConfig

    return _settings(QatConfig, own=True)


def _guard() -> str:
    from compress.quantize.guard import Guard

    return _settings(Guard, own=True)


def _export() -> str:
    from compress.recipe import ExportConfig

    return _settings(ExportConfig)


def _measure() -> str:
    from compress.recipe import MeasureConfig

    return _settings(MeasureConfig)


def _data() -> str:
    from compress.data.config import DataConfig, DataSource

    shared = f"### Keys of every source\n\n{_settings(DataSource)}"
    sources = [each for each in _arms(typing.get_args(DataConfig)[0])]
    return "\n\n".join([shared, *map(_source, sources)])


def _source(source: type[BaseModel]) -> str:
    from compress.data.config import DataSource

    name = source.model_fields["source"].default
    own = _settings(source, skip=("source", *DataSource.model_fields))
    return f"### `source: {name}`\n\n{_about(source)}\n\n{own}".strip()


# Stages


def _stages(kind: str) -> str:
    from compress.registry import STAGES

    return "\n\n".join(_stage(name) for name in STAGES if name.startswith(kind))


def _stage(name: str) -> str:
    from compress.quantize.stage import QuantizeLayers
    from compress.registry import stage_class

    stage = stage_class(name)
    shared = tuple(QuantizeLayers.model_fields) if issubclass(stage, QuantizeLayers) else ()
    parts = [f"### `{name}`", _about(stage), _settings(stage, skip=shared)]
    if shared:
        parts.append("Also the [settings of the integer stages](#settings-of-the-integer-stages).")
    inner = {"quantize/mixed": "schemes", "distill/student": "student rows"}.get(name, "").split()
    for key in inner:
        found = _models(stage.model_fields[key].annotation)[0]
        parts.append(f"`{key}`: {_about(found)}\n\n{_settings(found)}")
    return "\n\n".join(filter(None, parts))


def _integers() -> str:
    from compress.quantize.stage import QuantizeLayers

    return _settings(QuantizeLayers)


# Tasks, losses, gates


def _tasks() -> str:
    from compress.tasks import TASKS, task_class

    rows = []
    for name in TASKS:
        task = task_class(name)
        gates = ", ".join(f"`{gate}`" for gate in task.gates) or "-"
        rows.append((f"`{name}`", _sentence(task.words.summary), task.words.metric, task.words.unit, gates))
    return _table(("`data.task`", "what a model does", "main metric", "what is judged", "gates"), rows)


def _task_models() -> str:
    from compress.tasks import TASKS, task_class

    rows = [
        (f"`{name}`", f"`{head.auto_class}`", head.modality, f"`{head.pipeline_tag}`")
        for name in TASKS
        for head in task_class(name).heads
    ]
    return _table(("task", "Hugging Face class", "rows", "Hub tag"), rows)


def _sources_of_tasks() -> str:
    from compress.data.config import DataConfig

    rows = []
    for source in _arms(typing.get_args(DataConfig)[0]):
        tasks = [f"`{name}`" for name in source.tasks()]
        rows.append((f"`{source.model_fields['source'].default}`", source.modality, ", ".join(tasks)))
    return _table(("source", "rows", "tasks (the first is the default)"), rows)


def _losses() -> str:
    from compress.losses.config import LossConfig, Term

    parts = [_settings(LossConfig), "## Keys of every loss", _about(Term), _settings(Term)]
    for name, field in LossConfig.model_fields.items():
        term = _models(field.annotation)[0]
        own = _settings(term, skip=tuple(Term.model_fields))
        if own:
            parts += [f"## `{name}`", _about(term), own]
    return "\n\n".join(parts)


def _gates() -> str:
    from compress.recipe.gates import GatesConfig

    return _settings(GatesConfig)


def _architectures() -> str:
    from architectures import tables

    return tables()


# Report


def _report() -> str:
    from compress.measure.results import Measurement
    from compress.report import RunReport

    below = _reachable(Measurement)
    return _records([each for each in _reachable(RunReport) if each not in below or each is _parity()])


def _measurement() -> str:
    from compress.measure.results import Measurement

    return _records(_reachable(Measurement))


def _parity() -> type[BaseModel]:
    from compress.facts import Parity

    return Parity


def _records(models: Iterable[type[BaseModel]]) -> str:
    parts = []
    for model in models:
        rows = [(f"`{name}`", type_, meaning) for name, type_, _, meaning in _fields(model)]
        parts.append(
            f"## {model.__name__}\n\n{_about(model)}\n\n{_table(('field', 'type', 'meaning'), rows)}"
        )
    return "\n\n".join(parts)


def _reachable(model: type[BaseModel]) -> list[type[BaseModel]]:
    found = [model]
    for each in found:
        for field in each.model_fields.values():
            found += [inner for inner in _models(field.annotation) if inner not in found]
    return found


# Python


def _python_table() -> str:
    import compress

    rows = []
    for name in sorted(compress.__all__, key=str.lower):
        value = getattr(compress, name)
        stage = _stage_of(value)
        place = f"stages.md#{_anchor(stage)}" if stage else f"#{name.lower()}"
        what = f"The stage `{stage}`" if stage else _sentence(_summary(value))
        rows.append((f"[`{name}`]({place})", what))
    return _table(("name", "what it is"), rows)


def _stage_of(value: Any) -> str | None:
    """The name of a stage's class in a recipe."""
    from compress.registry import STAGES

    place = f"{getattr(value, '__module__', '')}:{getattr(value, '__name__', '')}"
    return next((name for name, each in STAGES.items() if each == place), None)


def _python() -> str:
    import compress

    values = {name: getattr(compress, name) for name in sorted(compress.__all__, key=str.lower)}
    return "\n\n".join(_name(name, value) for name, value in values.items() if not _stage_of(value))


def _name(name: str, value: Any) -> str:
    parts = [f"## `{name}`"]
    if inspect.isclass(value):
        place = _LINKS.get(name) or _FIELDS.get(name)
        fields = f"[Its fields]({place}) have a table of their own."
        parts.append(f"{_about(value)} {fields}" if place else _docstring(value))
        methods = [f"- `{_one_line(each.__name__, each)}`: {_summary(each)}" for each in _public(value)]
        parts += ["Methods:", "\n".join(methods)] if methods else []
    else:
        parts += [f"```py\n{_signature(name, value)}\n```", _docstring(value)]
    return "\n\n".join(filter(None, parts))


def _public(value: type) -> list[Any]:
    if issubclass(value, BaseException):
        return []
    return [
        method
        for key, method in vars(value).items()
        if not key.startswith("_") and key != "model_post_init" and inspect.isfunction(method)
    ]


def _one_line(name: str, value: Any) -> str:
    plain = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(value)))
    return f"{name}{plain.replace('(self, ', '(').replace('(self)', '()')}"


def _signature(name: str, value: Any) -> str:
    whole = _one_line(name, value)
    if len(whole) <= 100:
        return whole
    inside, _, after = whole.partition("(")[2].rpartition(")")
    lines = "".join(f"    {each},\n" for each in _split(inside))
    return f"{name}(\n{lines}){after}"


def _split(text: str) -> list[str]:
    """Split at the commas outside of brackets."""
    found, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            found.append("")
        else:
            found[-1] += letter
    return [each.strip() for each in found]


# Commands


def _commands() -> str:
    from compress.cli import app

    commands = {each.name or _dashed(each.callback.__name__): each for each in app.registered_commands}
    rows = [
        (f"[`{name}`](#{name})", _sentence(_first(_help(each)).partition(". ")[0]))
        for name, each in commands.items()
    ]
    parts = [_table(("command", "what it does"), rows)]
    return "\n\n".join([*parts, *(_command(name, each) for name, each in commands.items())])


def _command(name: str, command: Any) -> str:
    """A command from its function's signature: the objects that typer makes of it change between versions."""
    hints = typing.get_type_hints(command.callback, include_extras=True)
    usage, rows = f"modelpress {name} [OPTIONS]", []
    for parameter in inspect.signature(command.callback).parameters.values():
        kind, info = typing.get_args(hints[parameter.name])
        required = parameter.default is inspect.Parameter.empty
        if type(info).__name__ == "ArgumentInfo":
            shown = _argument(parameter.name, kind, info.metavar, required)
            usage += f" {shown}"
            names = " or ".join(f"`{each}`" for each in shown.split("|"))  # a bar would end the cell
        else:
            first = (info.default,) if isinstance(info.default, str) else ()  # in Annotated, a name
            decls = (*first, *info.param_decls) or (f"--{_dashed(parameter.name)}",)
            names = ", ".join(f"`{each}`" for each in decls)
        rows.append((names, _kind(kind, parameter.default), _inline(info.help or "")))
    parts = [f"## `{name}`", f"```text\n{usage}\n```", _paragraphs(_help(command))]
    parts.append(_table(("argument or option", "value", "meaning"), rows) if rows else "")
    if command.epilog:
        heading, _, examples = command.epilog.partition("\n")
        parts.append(f"{heading}\n\n```text\n{examples}\n```" if examples else _paragraphs(heading))
    return "\n\n".join(filter(None, parts))


def _argument(name: str, kind: Any, metavar: str | None, required: bool) -> str:
    if metavar is not None:
        return metavar
    several = "..." if any(typing.get_origin(arm) is list for arm in (kind, *typing.get_args(kind))) else ""
    return f"{name.upper()}{several}" if required else f"[{name.upper()}{several}]"


def _kind(kind: Any, default: Any) -> str:
    """The value of an option in words; a flag has none."""
    if kind is bool:
        return "-"
    arms = [arm for arm in (typing.get_args(kind) or (kind,)) if arm is not type(None)]
    arms = [inner for arm in arms for inner in (typing.get_args(arm) or (arm,))]
    words = {Path: "path", str: "text", int: "integer", float: "number"}
    found = _either(words.get(arm) or f"`{getattr(arm, 'value', arm)}`" for arm in arms)
    given = default not in (None, inspect.Parameter.empty, (), [], "")
    return f"{found}; default `{default}`" if given else found


def _help(command: Any) -> str:
    return str(command.help or inspect.getdoc(command.callback) or "")


def _dashed(name: str) -> str:
    return name.strip("_").replace("_", "-")


# Settings of a pydantic model


def _settings(model: type[BaseModel], skip: Iterable[str] = (), *, own: bool = False) -> str:
    """Table of the keys of a section; empty: it has none.

    Args:
        own: only keys that differ from those of the base class.
    """
    bases = model.__bases__[0].model_fields if own else {}
    rows = [
        (f"`{name}`", type_, default, meaning)
        for name, type_, default, meaning in _fields(model)
        if name not in skip and not (name in bases and bases[name] is model.model_fields[name])
    ]
    return _table(("key", "value", "default", "meaning"), rows) if rows else ""


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, str, str, str]]:
    """Name, type, default and meaning of each field, as Markdown."""
    from compress.recipe.describe import meanings_of

    schema = model.model_json_schema()
    meanings = meanings_of(model)
    for name, field in model.model_fields.items():
        found = schema["properties"][name]
        meaning = re.sub(r"\bNone\b", "`null`", _inline(meanings.get(name, "")))
        yield name, _type(found), _default(field), meaning


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema in words."""
    if "$ref" in schema:
        return _link(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema or "oneOf" in schema:
        arms = [arm for arm in schema.get("anyOf") or schema["oneOf"] if arm.get("type") != "null"]
        return _either(each for arm in arms for each in _choices(arm) or [_type(arm)])
    if "allOf" in schema:
        return _type(schema["allOf"][0])
    if _choices(schema):
        return _either(_choices(schema))
    kind = schema.get("type")
    if kind == "array":
        return _array(schema)
    if kind == "object":
        inner = schema.get("additionalProperties")
        return f"mapping of names to {_type(inner)}" if isinstance(inner, dict) else "mapping"
    words = {"string": "text", "boolean": "`true` or `false`", "number": "number", "integer": "integer"}
    if schema.get("format") == "path":
        return "path"
    return " ".join(filter(None, [words.get(str(kind), "any value"), _bounds(schema)]))


def _choices(schema: dict[str, Any]) -> list[str]:
    allowed = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return [f"`{_yaml(each)}`" for each in allowed]


def _array(schema: dict[str, Any]) -> str:
    if "prefixItems" in schema:
        return f"[{', '.join(_type(each) for each in schema['prefixItems'])}]"
    return re.sub(r"^list of (number|integer|text)\b", r"list of \1s", f"list of {_type(schema['items'])}")


def _bounds(schema: dict[str, Any]) -> str:
    if "minimum" in schema and "maximum" in schema:
        return f"from {schema['minimum']:,g} to {schema['maximum']:,.0f}"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return " and ".join(f"{sign} {schema[key]:,.6g}" for key, sign in signs.items() if key in schema)


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        given = value.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
        return f"`{_yaml(given)}`" if given else "its defaults"
    return f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if isinstance(value, float):
        return re.sub(r"e-0?", "e-", f"{value:g}")
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value) or '""'


_LINKS = {
    "DataConfig": "recipe.md#data",
    "ExportConfig": "recipe.md#export",
    "GatesConfig": "gates.md",
    "LossConfig": "losses.md",
    "MeasureConfig": "recipe.md#measure",
    "ModelConfig": "recipe.md#model",
    "QatConfig": "stages.md#qat",
    "Guard": "stages.md#guard",
    "RecoveryConfig": "stages.md#recovery",
    "RowsConfig": "",
    "Schemes": "",
    "StudentConfig": "",
    "TrainConfig": "recipe.md#train",
}


_FIELDS = {"Recipe": "recipe.md", "RunReport": "report.md"}


def _link(name: str) -> str:
    """A nested section."""
    from compress.data.config import DataSource
    from compress.losses.config import Term
    from compress.measure.results import Measurement
    from compress.registry import STAGES
    from compress.report import RunReport

    if name in _LINKS:
        return f"[section]({_LINKS[name]})" if _LINKS[name] else "section, see below"
    stage = next((key for key, place in STAGES.items() if place.endswith(f":{name}")), None)
    if stage is not None:
        return f"[settings](#{_anchor(stage)})"
    if name in {each.__name__ for each in _subclasses(DataSource)}:
        return "[section](recipe.md#data)"
    if name in {each.__name__ for each in _subclasses(Term)}:
        return "number or [section](losses.md#keys-of-every-loss)"
    if name == "Stage":
        return "[stages](stages.md)"
    page = "measurement.md" if name in {each.__name__ for each in _reachable(Measurement)} else "report.md"
    assert page == "measurement.md" or name in {each.__name__ for each in _reachable(RunReport)}, name
    return f"[{name}]({page}#{name.lower()})"


def _subclasses(kind: type) -> list[type]:
    found = [kind]
    for each in found:
        found += each.__subclasses__()
    return found


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for arm in typing.get_args(annotation) for model in _models(arm)]


def _arms(union: Any) -> tuple[Any, ...]:
    return typing.get_args(union)


# Docstrings and Markdown


def _sections(docstring: str) -> dict[str, str]:
    """Text of a docstring by heading; what is before the first has the empty one."""
    first, *rest = _SECTION.split(inspect.cleandoc(docstring))
    return {"": first.strip(), **dict(zip(rest[::2], rest[1::2], strict=True))}


def _entries(section: str) -> list[tuple[str, str]]:
    """Names and texts of the entries of a section such as Args."""
    text = inspect.cleandoc(f"\n{section.strip(chr(10))}")
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        if line.startswith(" ") and found:
            found[-1] = (found[-1][0], f"{found[-1][1]} {line.strip()}")
        elif line.strip():
            name, _, meaning = line.partition(": ")
            found.append((name.strip(), meaning.strip()))
    return found


def _docstring(value: Any) -> str:
    """A docstring as Markdown."""
    parts = []
    for heading, text in _sections(value.__doc__ or "").items():
        if not heading:
            parts.append(_paragraphs(text))
        elif heading in ("Returns", "Yields"):
            parts.append(f"{heading}: {_inline(' '.join(text.split()))}")
        elif heading == "Raises":
            raised = [f"`{names}`: {why.rstrip('.')}" for names, why in _entries(text)]
            parts.append(f"Raises: {_inline('; '.join(raised))}.")
        elif heading in ("Args", "Attributes"):
            lines = [
                f"- `{'`, `'.join(names.split(', '))}`: {_inline(text)}" for names, text in _entries(text)
            ]
            parts.append("\n".join(lines))
    return "\n\n".join(filter(None, parts))


def _about(model: type) -> str:
    """The beginning of a docstring."""
    return _paragraphs(_sections(model.__doc__ or "")[""])


def _summary(value: Any) -> str:
    return _first(_sections(inspect.getdoc(value) or "")[""])


def _first(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split())


def _paragraphs(text: str) -> str:
    """Paragraphs on one line each; indented ones, which are code, unchanged."""
    parts = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(each if each.startswith("    ") else _inline(" ".join(each.split())) for each in parts)


def _inline(text: str) -> str:
    """Text outside of code in which nothing is taken for Markdown."""
    text = re.sub(r"'([^'`]*[<>][^'`]*)'", r"`\1`", " ".join(text.split()))  # conditions
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(piece if i % 2 else re.sub(r"([*<|])", r"\\\1", piece) for i, piece in enumerate(pieces))


def _sentence(text: str) -> str:
    return _inline(text[:1].upper() + text[1:].rstrip("."))


def _either(choices: Iterable[str]) -> str:
    found = list(dict.fromkeys(choices))
    return " or ".join(filter(None, [", ".join(found[:-1]), found[-1]]))


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _anchor(name: str) -> str:
    """Of a heading with this name in code, as GitHub and MkDocs make it."""
    return re.sub(r"[^\w-]", "", name.lower())


PARTS: dict[str, Callable[[], str]] = {
    "recipe": _recipe,
    "model": _model,
    "train": _train,
    "data": _data,
    "export": _export,
    "measure": _measure,
    "prune": lambda: _stages("prune/"),
    "quantize": lambda: _stages("quantize/"),
    "distill": lambda: _stages("distill/"),
    "integers": _integers,
    "recovery": _recovery,
    "qat": _qat,
    "guard": _guard,
    "tasks": _tasks,
    "task-models": _task_models,
    "task-sources": _sources_of_tasks,
    "losses": _losses,
    "gates": _gates,
    "architectures": _architectures,
    "report": _report,
    "measurement": _measurement,
    "python-names": _python_table,
    "python": _python,
    "commands": _commands,
}


if __name__ == "__main__":
    sys.exit(main())
