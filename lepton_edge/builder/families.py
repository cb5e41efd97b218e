"""Which models can be exported, and what each task asks of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lepton_edge.errors import SourceError, UnsupportedModelError

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


HEADS = {
    "text-classification": Head(
        "AutoModelForSequenceClassification", ("ForSequenceClassification",)
    ),
    "feature-extraction": Head("AutoModel", ("Model", "ForMaskedLM", "ForPreTraining")),
}


def check_family(config: Any) -> None:
    """Raise `UnsupportedModelError` unless the family is one that exports."""
    if config.model_type not in ENCODERS:
        name = (config.architectures or [config.model_type])[0]
        raise UnsupportedModelError(
            f"the architecture {name} (model_type {config.model_type!r}) cannot be exported; "
            f"supported: {', '.join(ENCODERS.values())}",
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
        f"config.json names the architecture {', '.join(architectures) or '(none)'}: "
        "no task goes with it",
        hint=f"name one: task: {' or '.join(HEADS)}",
    )


def max_positions(config: Any) -> int | None:
    """How many tokens the model has positions for; None where it says nothing."""
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    if config.model_type not in _OFFSET_POSITIONS:
        return positions
    padding = config.pad_token_id if config.model_type != "mpnet" else _MPNET_PADDING
    return positions - (1 if padding is None else padding) - 1
