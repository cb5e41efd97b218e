"""A Hugging Face folder as a source."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import yaml

from lepton_edge.builder.families import HEADS, check_family, max_positions, task_of
from lepton_edge.builder.source import LoadedSource, hash_weights
from lepton_edge.builder.tokenizers import check_vocabulary, tokenizer_from_folder
from lepton_edge.builder.torch_model import TorchOriginal
from lepton_edge.bundle.manifest import Source
from lepton_edge.errors import SourceError
from lepton_edge.runtime.text import ATTENTION_MASK, INPUT_IDS, TOKEN_TYPE_IDS
from lepton_edge.tasks.base import Facts

if TYPE_CHECKING:
    from lepton_edge.recipe import Recipe

_DEFAULT_LENGTH = 512


def load_folder(
    folder: Path, recipe: Recipe, *, trust_remote_code: bool = False, hub_id: str | None = None
) -> LoadedSource:
    """Read a checkpoint, its tokenizer, and what sentence-transformers files say beside it.

    Raises `SourceError` for what is missing or damaged, `UnsupportedModelError` for a family
    that cannot be exported.
    """
    config = _read_config(folder, trust_remote_code)
    check_family(config)
    sentence = _SentenceFiles(folder)
    task = recipe.task or task_of(config, sentence.present)
    pinned = recipe.source.sha256 if recipe.source else None
    digest = hash_weights(_weights(folder), pinned)
    tokenizer = tokenizer_from_folder(folder, trust_remote_code)
    check_vocabulary(tokenizer, getattr(config, "vocab_size", None))
    model = _load_model(folder, config, task, trust_remote_code)
    limits = (tokenizer.max_length, sentence.max_length, max_positions(config))
    name = hub_id or folder.resolve().name
    return LoadedSource(
        source=Source(
            kind="hub" if hub_id else "huggingface",
            name=name,
            architecture=type(model).__name__,
            sha256=digest,
            revision=recipe.source.revision if recipe.source else None,
        ),
        original=TorchOriginal(_Call(model, config), inputs_of(config)),
        task=task,
        facts=_facts(config, sentence),
        tokenizer=tokenizer.json,
        pad_id=tokenizer.pad_id,
        max_length=min((n for n in limits if n), default=_DEFAULT_LENGTH),
        license=_license(folder),
    )


def inputs_of(config: Any) -> tuple[str, ...]:
    """The inputs of a family; token types only where the model tells them apart."""
    # DistilBERT and MPNet have no token types at all, whatever their configuration says.
    types = getattr(config, "type_vocab_size", 0) > 1 and config.model_type not in (
        "distilbert",
        "modernbert",
        "mpnet",
    )
    return (INPUT_IDS, ATTENTION_MASK, TOKEN_TYPE_IDS) if types else (INPUT_IDS, ATTENTION_MASK)


class _Call(torch.nn.Module):
    """A transformers model called by position, giving logits or the last hidden state."""

    def __init__(self, model: torch.nn.Module, config: Any) -> None:
        super().__init__()
        self.model = model
        self.names = inputs_of(config)

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        output = self.model(**dict(zip(self.names, tensors, strict=True)))
        logits: torch.Tensor | None = getattr(output, "logits", None)
        result: torch.Tensor = output.last_hidden_state if logits is None else logits
        return result


def _read_config(folder: Path, trust_remote_code: bool) -> Any:
    if not folder.is_dir():
        raise SourceError(f"there is no model folder at {folder}", hint="check source.path")
    file = folder / "config.json"
    if not file.is_file():
        raise SourceError(
            f"{folder} is not a model folder: it has no config.json",
            hint="save it with model.save_pretrained(folder)",
        )
    values = _read_json(file)
    if "auto_map" in values and not trust_remote_code:
        raise SourceError(
            f"the model in {folder} runs code of its own: {', '.join(values['auto_map'].values())}",
            hint="read that code first; then build with --trust-remote-code "
            "(in Python, trust_remote_code=True)",
        )
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=trust_remote_code
        )
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        model_type = values.get("model_type")
        raise SourceError(
            f"transformers cannot read {file} (model_type {model_type!r}): "
            f"{str(error).splitlines()[0]}",
            hint="export the model to ONNX and build from the file: source: {onnx: model.onnx}",
        ) from error


def _weights(folder: Path) -> list[Path]:
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        pickled = next(folder.glob("pytorch_model*.bin"), None)
        found = f"only {pickled.name}, a pickle, which can run code" if pickled else "none"
        raise SourceError(
            f"{folder} has no weights in model.safetensors ({found})",
            hint="save them again: model.save_pretrained(folder, safe_serialization=True)",
        )
    return files


def _load_model(folder: Path, config: Any, task: str, trust_remote_code: bool) -> torch.nn.Module:
    """In fp32, whole. Missing weights are an error: transformers would make them up."""
    import transformers
    from safetensors import SafetensorError

    options: dict[str, Any] = {}
    if config.model_type == "modernbert":
        config.reference_compile = False  # it would call torch.compile inside the export
        options["attn_implementation"] = _attention_without_empty_rows()
    auto = getattr(transformers, HEADS[task].auto_class)
    try:
        with _quiet():
            model, report = auto.from_pretrained(
                str(folder),
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                **options,
            )
    # RuntimeError: shapes in the file that are not those in config.json.
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise SourceError(
            f"the weights in {folder} cannot be read: {_first_line(error)}",
            hint="the file is cut short or damaged, or belongs to another config.json: "
            "fetch it again",
        ) from error
    # A pooler is not used by any task here, and many checkpoints have none.
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if missing:
        raise SourceError(
            f"{folder} has no weights for {', '.join(missing[:4])}"
            f"{' and others' if len(missing) > 4 else ''}: it is no {task} model",
            hint="name the task that it was trained for, or fine-tune it for this one first",
        )
    return model.eval()  # type: ignore[no-any-return]


def _attention_without_empty_rows() -> str:
    """The name, in transformers, of attention whose mask lets every token see something.

    A padded token far from the text has nothing but padding in its window. Softmax over nothing
    is NaN in a compiled model (torch itself gives zeros), and the next layer that sees all tokens
    carries it to the text's own. Such a token may see everything instead: nobody reads its answer.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def mask_of(*args: Any, **kwargs: Any) -> torch.Tensor | None:
        mask: torch.Tensor | None = sdpa_mask(*args, **kwargs)
        return mask if mask is None else mask | ~mask.any(dim=-1, keepdim=True)

    name = "sdpa_without_empty_rows"
    AttentionInterface.register(name, sdpa_attention_forward)
    AttentionMaskInterface.register(name, mask_of)
    return name


def _facts(config: Any, sentence: _SentenceFiles) -> Facts:
    labels = [config.id2label[i] for i in sorted(config.id2label)] if config.id2label else None
    return Facts(
        labels=tuple(labels) if labels else None,
        multi_label=config.problem_type == "multi_label_classification",
        pooling=sentence.pooling,
        normalize=sentence.normalize,
    )


class _SentenceFiles:
    """What a sentence-transformers folder says beside the model.

    Format: modules.json lists Transformer, Pooling and Normalize, each with a folder; Pooling's
    config.json has one flag for each way. Raises `SourceError` for a module that is not one of
    these: leaving it out would give other embeddings without a word.
    """

    def __init__(self, folder: Path) -> None:
        self.present = (folder / "modules.json").is_file()
        self.pooling: Literal["mean", "cls"] | None = None
        self.normalize: bool | None = None
        self.max_length: int | None = None
        if not self.present:
            return
        self.normalize = False
        for module in _read_json(folder / "modules.json"):
            kind = str(module.get("type", "")).rpartition(".")[2]
            if kind == "Pooling":
                self.pooling = self._pooling(folder / module["path"] / "config.json")
            elif kind == "Normalize":
                self.normalize = True
            elif kind != "Transformer":
                raise SourceError(
                    f"{folder} has a sentence-transformers module {kind}, which is not supported",
                    hint="supported: Transformer, Pooling, Normalize; or export to ONNX and build "
                    "from the file",
                )
        settings = folder / "sentence_bert_config.json"
        if settings.is_file():
            self.max_length = _read_json(settings).get("max_seq_length")

    @staticmethod
    def _pooling(file: Path) -> Literal["mean", "cls"]:
        flags = _read_json(file)
        names: dict[str, Literal["mean", "cls"]] = {"mean_tokens": "mean", "cls_token": "cls"}
        on = [
            key.removeprefix("pooling_mode_")
            for key, value in flags.items()
            if key.startswith("pooling_mode_") and value is True
        ]
        if len(on) != 1 or on[0] not in names:
            raise SourceError(
                f"{file} asks for the pooling {' and '.join(on) or 'none'}, "
                f"supported: one of {', '.join(names)}",
                hint="choose one in the recipe: task_options: {pooling: mean}",
            )
        return names[on[0]]


def _license(folder: Path) -> str | None:
    """What the model card's front matter says."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    text = card.read_text(encoding="utf-8", errors="replace")
    if not text.startswith("---\n"):
        return None
    try:
        front = yaml.safe_load(text[4:].split("\n---", 1)[0])
    except yaml.YAMLError:
        return None
    found = front.get("license") if isinstance(front, dict) else None
    return str(found) if found else None


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError(f"{file} is missing", hint="fetch the model again") from None
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{file} cannot be read: {error}", hint="fetch the model again"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' load report and progress bar off the terminal: what matters of them is
    checked and raised here."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
