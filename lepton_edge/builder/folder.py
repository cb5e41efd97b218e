"""What the files beside a model's weights say: the model card, and sentence-transformers' own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from lepton_edge.errors import SourceError

Pooling = Literal["mean", "cls"]
Activation = Literal["sigmoid", "identity"]

_FLAG = "pooling_mode_"
_POOLINGS: dict[str, Pooling] = {
    "mean": "mean",
    "mean_tokens": "mean",
    "cls": "cls",
    "cls_token": "cls",
}
_ACTIVATIONS: dict[str, Activation] = {"Sigmoid": "sigmoid", "Identity": "identity"}


class SentenceFiles:
    """What a sentence-transformers folder says of the model in it.

    modules.json lists Transformer, Pooling and Normalize, each with a folder. Raises `SourceError`
    for a module that is not one of these: leaving it out would give other embeddings without a
    word.
    """

    def __init__(self, folder: Path) -> None:
        self.present = (folder / "modules.json").is_file()
        self.normalize: bool | None = None
        self.max_length: int | None = None
        self.lower_case = False
        self._pooling: Path | None = None
        if not self.present:
            return
        self.normalize = False
        for module in read_json(folder / "modules.json", list):
            values = module if isinstance(module, dict) else {}
            kind = str(values.get("type")).rpartition(".")[2]
            if kind == "Pooling":
                self._pooling = folder / str(values.get("path")) / "config.json"
            elif kind == "Normalize":
                self.normalize = True
            elif kind != "Transformer":
                raise SourceError(
                    f"{folder} has a sentence-transformers module {kind}, which is not supported",
                    hint="supported: Transformer, Pooling, Normalize; or export to ONNX and build "
                    "from the file",
                )
        self._read_settings(folder)

    def pooling(self) -> Pooling | None:
        """How token vectors become one; None where the folder does not say.

        Raises `SourceError` for a way that is not supported. Not called where the recipe chooses.
        """
        if self._pooling is None:
            return None
        values = read_json(self._pooling, dict)
        # One key since release 6 of sentence-transformers, which may be a list; flags before.
        stated = values.get("pooling_mode") or [
            key[len(_FLAG) :] for key, on in values.items() if key.startswith(_FLAG) and on is True
        ]
        ways = [stated] if isinstance(stated, str) else list(stated)
        if len(ways) != 1 or ways[0] not in _POOLINGS:
            raise SourceError(
                f"{self._pooling} asks for the pooling {' and '.join(map(str, ways)) or 'none'}; "
                "supported: mean, cls",
                hint="choose one in a recipe: {task: feature-extraction, "
                "task_options: {pooling: mean}}",
            )
        return _POOLINGS[ways[0]]

    def _read_settings(self, folder: Path) -> None:
        file = folder / "sentence_bert_config.json"
        if file.is_file():
            settings = read_json(file, dict)
            stated = settings.get("max_seq_length")
            self.max_length = stated if isinstance(stated, int) else None
            self.lower_case = settings.get("do_lower_case") is True
        file = folder / "config_sentence_transformers.json"
        prompt = read_json(file, dict).get("default_prompt_name") if file.is_file() else None
        if prompt:
            raise SourceError(
                f"{file} puts the prompt {prompt!r} before every text, which is not supported",
                hint="set default_prompt_name to null there, and put the prompt before your texts",
            )


def license_of(folder: Path) -> str | None:
    """What the model card's front matter says."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    text = card.read_text(encoding="utf-8-sig", errors="replace")
    if not text.startswith("---\n"):
        return None
    try:
        front = yaml.safe_load(text[4:].split("\n---", 1)[0])
    except yaml.YAMLError:
        return None
    found = front.get("license") if isinstance(front, dict) else None
    if isinstance(found, list):
        return ", ".join(map(str, found)) or None
    return str(found) if found else None


def read_json(file: Path, kind: type) -> Any:
    """A JSON document that is a ``kind``: dict or list. Raises `SourceError`."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError(f"{file} is missing", hint="fetch the model again") from None
    # A deep enough nest of brackets ends in RecursionError.
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(
            f"{file} cannot be read: {error}", hint="fetch the model again"
        ) from error
    if not isinstance(values, kind):
        raise SourceError(
            f"{file} holds a {type(values).__name__}, not a {kind.__name__}",
            hint="fetch the model again",
        )
    return values


def activation_of(config: Mapping[str, Any]) -> Activation | None:
    """What a sentence-transformers cross-encoder's config.json says is done to its one output.

    None where it says nothing, or something else than these two.
    """
    block = config.get("sentence_transformers")
    named = block.get("activation_fn") if isinstance(block, Mapping) else None
    # Older versions wrote it at the top.
    named = named or config.get("sbert_ce_default_activation_function") or ""
    return _ACTIVATIONS.get(str(named).rpartition(".")[2])
