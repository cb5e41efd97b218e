"""A Hugging Face folder as a source."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from lepton_edge.builder.causal_lm import generation_facts, load_causal_lm
from lepton_edge.builder.decoder import check_decoder
from lepton_edge.builder.encoder_decoder import check_encoder_decoder
from lepton_edge.builder.families import HEADS, check_family, check_task, max_positions, task_of
from lepton_edge.builder.folder import SentenceFiles, activation_of, license_of, read_json
from lepton_edge.builder.quiet import quiet
from lepton_edge.builder.seq2seq import lengths, load_seq2seq, text_to_text_facts
from lepton_edge.builder.source import LoadedSource, first_line, hash_weights
from lepton_edge.builder.tokenizers import (
    SourceTokenizer,
    check_vocabulary,
    language_tokenizer,
    lowered,
    tokenizer_from_folder,
    transformers_tokenizer,
)
from lepton_edge.builder.torch_model import TorchOriginal
from lepton_edge.bundle.manifest import Source
from lepton_edge.errors import SourceError
from lepton_edge.runtime.text import ATTENTION_MASK, INPUT_IDS, TOKEN_TYPE_IDS
from lepton_edge.tasks import TEXT_TO_TEXT_TASKS, session_task, task_class
from lepton_edge.tasks.base import Facts

if TYPE_CHECKING:
    from lepton_edge.recipe import Recipe

_DEFAULT_LENGTH = 512
_TOKEN_VECTORS = {"embedding": "last_hidden_state"}


def load_folder(
    folder: Path,
    recipe: Recipe,
    *,
    trust_remote_code: bool = False,
    hub_id: str | None = None,
    keeps_dtype: bool = False,
) -> LoadedSource:
    """Read a checkpoint, its tokenizer, and what other files say beside it. Weights are read as
    float32; those of a decoder, with ``keeps_dtype``, as they are stored.

    Raises `SourceError` for what is missing or damaged, `UnsupportedModelError` for a family
    that cannot be exported.
    """
    config = _read_config(folder, trust_remote_code)
    sentence = SentenceFiles(folder)
    task = recipe.task or task_of(config, sentence.present)
    pinned = recipe.source.sha256 if recipe.source else None
    digest = hash_weights(_weights(folder), pinned)
    tokenizer = tokenizer_from_folder(folder, trust_remote_code)
    if sentence.lower_case:
        tokenizer = lowered(tokenizer)
    check_vocabulary(tokenizer, getattr(config, "vocab_size", None))
    name = hub_id or folder.resolve().name
    source = Source(
        kind="hub" if hub_id else "huggingface",
        name=name,
        architecture=(config.architectures or [type(config).__name__])[0],
        sha256=digest,
        revision=recipe.source.revision if recipe.source else None,
    )
    if task in TEXT_TO_TEXT_TASKS:
        own = transformers_tokenizer(folder, trust_remote_code)
        own = language_tokenizer(folder, own)
        return _text_to_text(folder, config, task, source, tokenizer, own)
    check_task(config, task)
    if task_class(task).generates:
        check_decoder(config)
        return LoadedSource(
            source=source,
            original=load_causal_lm(folder, config, None if keeps_dtype else torch.float32),
            task=task,
            facts=Facts(
                generation=generation_facts(
                    folder,
                    getattr(config, "eos_token_id", None),
                    transformers_tokenizer(folder, trust_remote_code),
                )
            ),
            tokenizer=tokenizer.json,
            pad_id=tokenizer.pad_id,
            max_length=config.max_position_embeddings,
            license=license_of(folder),
        )
    model = _load_model(folder, config, task, trust_remote_code)
    inputs, outputs = inputs_of(model, config), tuple(session_task(task, "an encoder").outputs)
    limits = (tokenizer.max_length, sentence.max_length, max_positions(config.to_dict()))
    return LoadedSource(
        source=msgspec.structs.replace(source, architecture=type(model).__name__),
        original=TorchOriginal(_Call(model, inputs, outputs), inputs, type(model).__name__),
        task=task,
        facts=_facts(config, sentence, recipe, tokenizer),
        tokenizer=tokenizer.json,
        pad_id=tokenizer.pad_id,
        max_length=min((n for n in limits if n), default=_DEFAULT_LENGTH),
        license=license_of(folder),
    )


def _text_to_text(
    folder: Path, config: Any, task: str, source: Source, tokenizer: SourceTokenizer, own: Any
) -> LoadedSource:
    """Of an encoder-decoder. ``own`` is transformers' tokenizer."""
    check_encoder_decoder(config)
    model = load_seq2seq(folder, config, own)
    most, usual = lengths(config, tokenizer)
    return LoadedSource(
        source=source,
        original=model,
        task=task,
        facts=Facts(text_to_text=text_to_text_facts(model, tokenizer)),
        tokenizer=tokenizer.json,
        pad_id=tokenizer.pad_id,
        max_length=most,
        license=license_of(folder),
        default_length=usual,
    )


def inputs_of(model: torch.nn.Module, config: Any) -> tuple[str, ...]:
    """The inputs of a model; token types only where it takes them and tells them apart."""
    # Some families have no token types at all, whatever their configuration says.
    takes_types = TOKEN_TYPE_IDS in inspect.signature(model.forward).parameters
    if takes_types and getattr(config, "type_vocab_size", 0) > 1:
        return (INPUT_IDS, ATTENTION_MASK, TOKEN_TYPE_IDS)
    return (INPUT_IDS, ATTENTION_MASK)


class _Call(torch.nn.Module):
    """A transformers model called by position, giving the tensors that a task reads."""

    def __init__(
        self, model: torch.nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.model = model
        self.inputs = inputs
        # An embedding is pooled from the token vectors.
        self.outputs = tuple(_TOKEN_VECTORS.get(name, name) for name in outputs)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        output = self.model(**dict(zip(self.inputs, tensors, strict=True)))
        return tuple(getattr(output, name) for name in self.outputs)


def _read_config(folder: Path, trust_remote_code: bool) -> Any:
    if not folder.is_dir():
        raise SourceError(f"there is no model folder at {folder}", hint="check source.path")
    file = folder / "config.json"
    if not file.is_file():
        raise SourceError(
            f"{folder} is not a model folder: it has no config.json",
            hint="save it with model.save_pretrained(folder)",
        )
    values = read_json(file, dict)
    if not values.get("auto_map"):
        check_family(file, values)
    # Code of its own makes a model no family of the list: the export and the gate judge it.
    elif not trust_remote_code:
        raise SourceError(
            f"the model in {folder} runs code of its own: {values['auto_map']}",
            hint="read that code first; then build with --trust-remote-code "
            "(in Python, trust_remote_code=True)",
        )
    from transformers import AutoConfig

    try:
        with quiet():
            return AutoConfig.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=trust_remote_code
            )
    except Exception as error:  # each family checks its values in its own way
        raise SourceError(
            f"transformers cannot read {file} (model_type {values.get('model_type')!r}): "
            f"{first_line(error)}",
            hint="export the model to ONNX and build from the file: source: {onnx: model.onnx}",
        ) from error


def _weights(folder: Path) -> list[Path]:
    """The files that transformers reads: one, or those that an index lists."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        names = sorted(set(read_json(index, dict).get("weight_map", {}).values()))
        gone = [name for name in names if not (folder / name).is_file()]
        if names and not gone:
            return [folder / name for name in names]
        raise SourceError(
            f"{index} lists weights that are not there: {', '.join(gone) or 'none listed'}",
            hint="fetch the model again",
        )
    pickled = next(folder.glob("pytorch_model*.bin"), None)
    found = f"only {pickled.name}, a pickle, which can run code" if pickled else "none"
    raise SourceError(
        f"{folder} has no weights in model.safetensors ({found})",
        hint="save them again: model.save_pretrained(folder, safe_serialization=True)",
    )


def _load_model(folder: Path, config: Any, task: str, trust_remote_code: bool) -> torch.nn.Module:
    """In fp32, whole. Missing weights are an error: transformers would make them up."""
    import transformers

    options: dict[str, Any] = {}
    if config.model_type == "modernbert":
        config.reference_compile = False  # it would call torch.compile inside the export
        options["attn_implementation"] = _attention_without_empty_rows()
    auto = getattr(transformers, HEADS[task].auto_class)
    try:
        with quiet():
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
    # SafetensorError for a damaged file, RuntimeError for shapes that are not config.json's, and
    # whatever the code that comes with a trusted model raises.
    except Exception as error:
        raise SourceError(
            f"the model in {folder} cannot be loaded: {type(error).__name__}: {first_line(error)}",
            hint="its weights are cut short or damaged, or belong to another config.json: "
            "fetch it again",
        ) from error
    missing = sorted(report["missing_keys"])
    if task == "feature-extraction":
        # Embeddings are pooled from the token vectors, and many checkpoints have no pooler.
        missing = [key for key in missing if "pooler" not in key]
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


def _facts(
    config: Any, sentence: SentenceFiles, recipe: Recipe, tokenizer: SourceTokenizer
) -> Facts:
    labels = [config.id2label[i] for i in sorted(config.id2label)] if config.id2label else None
    return Facts(
        labels=tuple(labels) if labels else None,
        multi_label=config.problem_type == "multi_label_classification",
        pooling=None if recipe.task_options.get("pooling") else sentence.pooling(),
        normalize=sentence.normalize,
        activation=activation_of(config.to_dict()),
        mask_token=tokenizer.mask_token,
    )
