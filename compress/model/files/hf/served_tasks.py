"""Find a Hugging Face checkpoint's task from config.json and modules.json, with one sentence for each.

The tasks of `compress.tasks` are supported. All others are refused by name, by every command alike. Must not
import torch or transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from compress.tasks.registry import TASKS, all_heads, marked_task, task_class
from compress.tasks.spec import HubHead

__all__ = ["CheckpointTask", "no_classes", "task_of_files"]


NewHead = Literal["checkpoint", "encoder", "never"]


@dataclass(frozen=True)
class CheckpointTask:
    """The task of a checkpoint that is not supported as such.

    Attributes:
        name: usual name of the task, or of the kind of model.
        what: what such a model does; completes a sentence after "it".
        new_head: whether another head may be trained on it: on the checkpoint, on its encoder saved
            without the current head, or never.
        marker: file that says that it is for another task of `compress.tasks`; empty: it is for none.
    """

    name: str
    what: str
    new_head: NewHead = "never"
    marker: str = ""

    def refusal(self, checkpoint: str, architectures: Sequence[str]) -> str:
        """Why the checkpoint can't be used unchanged, and what to do instead."""
        said = f"{checkpoint} is for {self.name} ({_listed(architectures)}): it {self.what}; {_served()}"
        if self.marker:
            said += f". To compress it as it is, set data.task={marked_task(self.marker.__eq__)}"
        if self.new_head == "checkpoint":
            return (
                f"{said}. A recipe with model.train and labelled rows trains a new classification head on "
                "its encoder: modelpress run RECIPE"
            )
        if self.new_head == "encoder":
            return (
                f"{said}. To train a new head on its encoder, save AutoModel.from_pretrained(...) and "
                "the tokenizer to a new directory, and set model.hf to it in a recipe with model.train"
            )
        return said

    def note(self, architectures: Sequence[str]) -> str:
        """Note for the report when a new head is trained on the checkpoint."""
        return (
            f"the model is for {self.name} ({_listed(architectures)}): only its encoder is used, and a new "
            "head is trained on it"
        )


_EMBEDDING = CheckpointTask(
    "sentence embedding",
    "turns a text into a vector (modules.json of sentence-transformers)",
    "checkpoint",
    "modules.json",
)
_ENCODER_DECODER = CheckpointTask("sequence-to-sequence", "is an encoder-decoder, like T5 and BART")
_GENERATION = CheckpointTask("generation", "writes a text about an image or a sound")
_OTHER = CheckpointTask("another task", "has no classification head", "checkpoint")
_PRETRAINED = CheckpointTask("pretraining", "has no classification head", "checkpoint")
_SPEECH = CheckpointTask("speech or audio", "reads sound")

# By the end of the architecture's name; the first match counts.
_BY_ENDING = {
    "ForVisualQuestionAnswering": CheckpointTask("visual question answering", "reads images and texts"),
    "ForDocumentQuestionAnswering": CheckpointTask("document question answering", "reads images and texts"),
    "QuestionAnswering": CheckpointTask("question answering", "marks the answer in a text", "encoder"),
    "QuestionAnsweringSimple": CheckpointTask("question answering", "marks the answer in a text", "encoder"),
    **dict.fromkeys(
        ("ForMultipleChoice", "DoubleHeadsModel"),
        CheckpointTask("multiple choice", "chooses one of several texts", "encoder"),
    ),
    **dict.fromkeys(
        ("ForMaskedLM", "WithLMHeadModel"),
        CheckpointTask("masked language modelling", "predicts masked tokens of a text", "checkpoint"),
    ),
    "ForNextSentencePrediction": CheckpointTask(
        "next sentence prediction", "predicts whether one text follows another", "checkpoint"
    ),
    "ForMaskedImageModeling": CheckpointTask(
        "masked image modelling", "fills in patches of an image", "checkpoint"
    ),
    "ForPreTraining": _PRETRAINED,
    "ForCTC": _SPEECH,
    "ForSpeechSeq2Seq": _SPEECH,
    "ForXVector": _SPEECH,
    "ForAudioClassification": _SPEECH,
    "ForAudioFrameClassification": _SPEECH,
    "WhisperForConditionalGeneration": _SPEECH,
    "Speech2TextForConditionalGeneration": _SPEECH,
    "EncoderDecoderModel": _ENCODER_DECODER,
    "ObjectDetection": CheckpointTask("object detection", "gives boxes"),
    "Segmentation": CheckpointTask("segmentation", "labels each pixel of an image"),
    "ForDepthEstimation": CheckpointTask("depth estimation", "gives each pixel a depth"),
    "ForVideoClassification": CheckpointTask("video classification", "reads several images per row"),
    "QuestionEncoder": CheckpointTask("retrieval", "turns a text into a vector"),
    "ContextEncoder": CheckpointTask("retrieval", "turns a text into a vector"),
    **dict.fromkeys(
        ("CLIPModel", "SiglipModel", "Siglip2Model", "AlignModel", "BlipModel", "DualEncoderModel"),
        CheckpointTask(
            "comparing images with texts (two towers, as CLIP)", "returns similarities", "checkpoint"
        ),
    ),
}


def task_of_files(
    architectures: Sequence[str],
    head: HubHead | None,
    *,
    is_encoder_decoder: bool,
    is_sentence_transformer: bool,
    reads_sound: bool = False,
) -> CheckpointTask | None:
    """The unsupported task of a checkpoint, or None if it has the wanted head.

    Args:
        architectures: as named in config.json.
        head: the wanted head; None: any head is refused.
        is_encoder_decoder: whether it is one, or a classifier made of it would be one.
        is_sentence_transformer: whether there is a modules.json next to config.json.
        reads_sound: whether its family does; some of its heads are named like those of text models.
    """
    first = architectures[0] if architectures else ""
    if reads_sound:
        return _SPEECH
    for ending, task in _BY_ENDING.items():
        if first.endswith(ending):
            return task
    if is_encoder_decoder:
        return _ENCODER_DECODER
    if first.endswith("ForConditionalGeneration"):
        return _GENERATION
    if head is not None and any(map(head.fits, architectures)):
        return None
    for name, other in all_heads():
        if other.what and any(map(other.fits, architectures)):
            new_head: NewHead = "encoder" if other.shares_names else "checkpoint"
            return CheckpointTask(name.replace("-", " "), other.what, new_head)
    if is_sentence_transformer:
        return _EMBEDDING
    return _PRETRAINED if not first or first.endswith("Model") else _OTHER


def no_classes(checkpoint: str, problem_type: object, num_labels: int, head: HubHead | None) -> str | None:
    """Why a trained classification head doesn't fit the wanted one, or None if it does.

    Args:
        checkpoint: the directory, the Hub name or the bundle.
        problem_type: as in config.json.
        num_labels: outputs of the head per row.
        head: the wanted head.
    """
    wanted = None if head is None else head.problem_type
    if head is not None and head.outputs is not None:
        return _other_outputs(checkpoint, problem_type, num_labels, head)
    of_type = [(name, each) for name, each in all_heads() if each.problem_type == problem_type]
    if problem_type is not None and of_type and wanted != problem_type:
        name, found = of_type[0]
        advice = f"; set data.task={name}"
        if head is not None and head.modality != found.modality:
            advice = f"; it is not supported for {head.modality} data"
        return (
            f"{checkpoint} is a {task_class(name).words.model} (problem_type in its config.json, "
            f"{num_labels} labels), but the data is for another task{advice}; {_served()}"
        )
    if wanted is not None and problem_type not in (None, wanted):
        return (
            f"{checkpoint} is for {problem_type} (problem_type in its config.json), but the data is for "
            f"{wanted}; {_served()}"
        )
    of_size = dict.fromkeys(name for name, each in all_heads() if each.outputs == num_labels)
    if of_size:
        models = " or ".join(task_class(name).words.model for name in of_size)
        tasks = " or ".join(f"data.task={name}" for name in of_size)
        return (
            f"{checkpoint} is a {models} (num_labels: {num_labels} in its config.json): its head returns "
            f"{num_labels} number per row instead of classes; set {tasks}"
        )
    return None


def _other_outputs(checkpoint: str, problem_type: object, num_labels: int, head: HubHead) -> str | None:
    """`no_classes` for a head whose number of outputs is fixed."""
    name = next(name for name, each in all_heads() if each == head)
    if num_labels == head.outputs and problem_type in (None, *_problems_of(head.outputs)):
        return None
    key = f"problem_type: {problem_type}, " if problem_type is not None else ""
    return (
        f"{checkpoint} returns {num_labels} numbers per row ({key}num_labels: {num_labels} in its "
        f"config.json), but data.task={name} needs {head.outputs}; {_served()}"
    )


def _problems_of(outputs: int) -> tuple[str, ...]:
    """The values of problem_type with this fixed number of outputs."""
    return tuple(
        each.problem_type for _, each in all_heads() if each.outputs == outputs and each.problem_type
    )


def _served() -> str:
    """Sentence with the supported tasks."""
    *first, last = (task_class(name).words.served for name in TASKS)
    return f"modelpress supports {', '.join(first)} and {last}"


def _listed(architectures: Sequence[str]) -> str:
    return ", ".join(architectures) or "no architecture in config.json"
