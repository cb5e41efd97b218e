"""Which models can be exported, and what each task asks of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_edge.builder.decoder import DECODERS, IR_WAY
from lepton_edge.builder.encoder_decoder import ENCODER_DECODERS
from lepton_edge.errors import SourceError, UnsupportedModelError
from lepton_edge.tasks import SESSION_TASKS, TEXT_TO_TEXT_TASKS

# By `model_type` in config.json. Each is exported and compared with torch in
# tests/builder/test_families.py; a family that is not tested there does not belong here.
ENCODERS = {
    "albert": "ALBERT",
    "bert": "BERT",
    "camembert": "CamemBERT",
    "deberta-v2": "DeBERTa-v2",
    "distilbert": "DistilBERT",
    "electra": "ELECTRA",
    "modernbert": "ModernBERT",
    "mpnet": "MPNet",
    "roberta": "RoBERTa",
    "xlm-roberta": "XLM-RoBERTa",
}

# Positions start after the padding index in these, so two (or more) are not for text.
_OFFSET_POSITIONS = {"camembert", "mpnet", "roberta", "xlm-roberta"}
_MPNET_PADDING = 1  # whatever its configuration says

_ONNX_WAY = (
    "export it to ONNX with its own tools and build from the file: source: {onnx: model.onnx}"
)


@dataclass(frozen=True)
class Head:
    """The transformers class that loads a task's model, and the ending of such architectures."""

    auto_class: str
    endings: tuple[str, ...]


# The first of those that fit an architecture is what a model is built for where nobody says: NLI
# models and rankers have a classifier's architecture, and have to be named.
_SEQUENCE = Head("AutoModelForSequenceClassification", ("ForSequenceClassification",))
_SEQ2SEQ = Head(
    "AutoModelForSeq2SeqLM", ("ForConditionalGeneration", "MTModel", "T5WithLMHeadModel")
)
HEADS = {
    "text-classification": _SEQUENCE,
    "token-classification": Head("AutoModelForTokenClassification", ("ForTokenClassification",)),
    "question-answering": Head("AutoModelForQuestionAnswering", ("ForQuestionAnswering",)),
    "zero-shot-classification": _SEQUENCE,
    "text-ranking": _SEQUENCE,
    "fill-mask": Head("AutoModelForMaskedLM", ("ForMaskedLM",)),
    # Before those that end in Model alone. Translation and summarization have to be named.
    "text2text-generation": _SEQ2SEQ,
    "translation": _SEQ2SEQ,
    "summarization": _SEQ2SEQ,
    "feature-extraction": Head("AutoModel", ("Model", "ForPreTraining")),
    "text-generation": Head("AutoModelForCausalLM", ("ForCausalLM", "LMHeadModel")),
}
_FAMILIES = (
    *ENCODERS.values(),
    *DECODERS.values(),
    *(family.name for family in ENCODER_DECODERS.values()),
)


def check_family(file: Path, values: dict[str, Any]) -> None:
    """Raise `UnsupportedModelError` unless config.json names a family that exports."""
    model_type = values.get("model_type")
    if model_type in ENCODERS or model_type in DECODERS or model_type in ENCODER_DECODERS:
        return
    if model_type is None:
        # transformers would guess it from the folder's name.
        raise UnsupportedModelError(
            f"{file} does not say its model_type; supported: "
            f"{', '.join((*ENCODERS, *DECODERS, *ENCODER_DECODERS))}",
            hint='add it, such as "model_type": "bert"',
        )
    name = (values.get("architectures") or [model_type])[0]
    decodes = name.endswith(HEADS["text-generation"].endings)
    raise UnsupportedModelError(
        f"the architecture {name} (model_type {model_type!r}) cannot be exported; "
        f"supported: {', '.join(_FAMILIES)}",
        hint=IR_WAY if decodes else _ONNX_WAY,
    )


def check_task(config: Any, task: str) -> None:
    """Raise `UnsupportedModelError` for an encoder-decoder whose task is none of theirs: its
    classifiers have another graph."""
    if config.model_type not in ENCODER_DECODERS:
        return
    name = (config.architectures or [config.model_type])[0]
    if name.endswith(_SEQ2SEQ.endings):
        raise UnsupportedModelError(
            f"the architecture {name} is for {', '.join(TEXT_TO_TEXT_TASKS)}, not for {task}",
            hint="leave the task out, or name one of these",
        )
    if task in SESSION_TASKS:
        raise UnsupportedModelError(
            f"the architecture {name} (model_type {config.model_type!r}) cannot be exported for "
            f"{task}; supported: {', '.join(ENCODERS.values())}",
            hint=_ONNX_WAY,
        )


def task_of(config: Any, is_sentence_transformer: bool) -> str:
    """The task that a checkpoint was made for. Raises `SourceError` where it has no recipe."""
    if is_sentence_transformer:
        return "feature-extraction"
    architectures = config.architectures or []
    for task, head in HEADS.items():
        if any(name.endswith(head.endings) for name in architectures):
            return task
    raise SourceError(
        f"config.json names the architecture {', '.join(architectures) or '(none)'}, "
        "which is for no task that this version has",
        hint=f"if it does one of these, name it (--task, or task in a recipe): {', '.join(HEADS)}",
    )


def max_positions(values: Mapping[str, Any]) -> int | None:
    """How many tokens the model has positions for, by its config.json; None where that says
    nothing."""
    family, positions = values.get("model_type"), values.get("max_position_embeddings")
    if not isinstance(positions, int) or positions <= 0:
        return None
    if family not in _OFFSET_POSITIONS:
        return positions
    padding = values.get("pad_token_id") if family != "mpnet" else _MPNET_PADDING
    return positions - (1 if padding is None else int(padding)) - 1
