"""A Hugging Face folder of a decoder-only language model as a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lepton_edge.backend import DecoderForm, Graph
from lepton_edge.builder.decoder import decoder_graph
from lepton_edge.builder.folder import read_json
from lepton_edge.builder.quiet import quiet
from lepton_edge.builder.source import first_line
from lepton_edge.errors import SourceError
from lepton_edge.generation.replies import MARKERS
from lepton_edge.runtime.text import ATTENTION_MASK, INPUT_IDS
from lepton_edge.tasks.base import GenerationFacts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lepton_edge.backend import Tensors

# Of generation_config.json, by the names of `Sampling`; what is 1 or 0 there changes nothing.
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
_NEUTRAL = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
_TEMPLATE_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


class CausalLM:
    """An `Original` that is a transformers causal language model."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    def name(self) -> str:
        """The model's class, for messages."""
        return type(self.model).__name__

    def graph(self, task: str, config: Any, work: Path) -> Graph:
        """One step of it, in the form that is nobody's in particular: see `step_graph`."""
        return self.step_graph(DecoderForm(), self.model.config.max_position_embeddings)

    def step_graph(self, form: DecoderForm, max_length: int) -> Graph:
        """One step of it, for texts of up to ``max_length`` tokens. Raises
        `UnsupportedModelError`."""
        return decoder_graph(
            self.model, attention=form.attention, logits=form.logits, max_length=max_length
        )

    def run(self, feeds: Tensors) -> dict[str, NDArray[np.float32]]:
        """``logits`` float32 [batch, length, vocabulary] of whole texts."""
        with torch.no_grad():
            logits = self.model(
                input_ids=torch.from_numpy(feeds[INPUT_IDS]),
                attention_mask=torch.from_numpy(feeds[ATTENTION_MASK]),
            ).logits
        return {"logits": logits.float().numpy()}

    def greedy(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
        """Each prompt continued by so many tokens, the most likely one each time; no token ends
        a text. The prompts are of equal length."""
        ids = torch.tensor([list(prompt) for prompt in prompts])
        found: list[list[int]] = []
        with torch.no_grad():
            output = self.model(input_ids=ids, use_cache=True)
            for _ in range(tokens):
                last = output.logits[:, -1].float().argmax(dim=-1)
                found.append(last.tolist())
                output = self.model(
                    input_ids=last[:, None], past_key_values=output.past_key_values, use_cache=True
                )
        return [list(row) for row in zip(*found, strict=True)]


def load_causal_lm(folder: Path, config: Any, dtype: torch.dtype | None) -> CausalLM:
    """The model, with its weights in ``dtype``; as they are stored where that is None.

    Raises `SourceError`.
    """
    from transformers import AutoModelForCausalLM

    return CausalLM(load_model(AutoModelForCausalLM, folder, config, dtype))


def load_model(auto: Any, folder: Path, config: Any, dtype: torch.dtype | None) -> Any:
    """A folder's model by one of transformers' automatic classes, whole and in eval mode.

    Raises `SourceError`.
    """
    try:
        with quiet():
            model, report = auto.from_pretrained(
                str(folder),
                config=config,
                dtype=dtype or "auto",
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except Exception as error:  # SafetensorError, RuntimeError for shapes, and others
        raise SourceError(
            f"the model in {folder} cannot be loaded: {type(error).__name__}: {first_line(error)}",
            hint="its weights are cut short or damaged, or belong to another config.json: "
            "fetch it again",
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise SourceError(
            f"{folder} has no weights for {', '.join(missing[:4])}"
            f"{' and others' if len(missing) > 4 else ''}",
            hint="its weights are cut short, or belong to another config.json: fetch it again",
        )
    return model.eval()


def generation_facts(folder: Path, end: Any, tokenizer: Any) -> GenerationFacts:
    """What a folder says about answers. ``end`` is config.json's eos_token_id, ``tokenizer``
    transformers' own.

    Raises `SourceError` where it does not say how an answer ends, or a chat template is not text.
    """
    file = folder / "generation_config.json"
    settings = read_json(file, dict) if file.is_file() else {}
    stop = settings.get("eos_token_id", end)
    if stop is None:
        stop = tokenizer.eos_token_id
    stops = tuple(stop) if isinstance(stop, (list, tuple)) else (() if stop is None else (stop,))
    if not stops or not all(isinstance(each, int) for each in stops):
        raise SourceError(
            f"{folder} does not say which token ends an answer (eos_token_id is {stop!r})",
            hint="set eos_token_id in its generation_config.json",
        )
    names = {name: getattr(tokenizer, name, None) for name in _TEMPLATE_TOKENS}
    return GenerationFacts(
        stop_tokens=stops,
        special_tokens={name: str(token) for name, token in names.items() if token is not None},
        chat_template=_template(folder, tokenizer.chat_template),
        sampling=_sampling(settings),
        shown_tokens={
            number: str(token.content)
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.special and token.content in MARKERS
        },
    )


def _template(folder: Path, given: Any) -> str | None:
    """One template; of several by name, the default one."""
    if isinstance(given, Mapping):
        given = given.get("default")
    if given is None or isinstance(given, str):
        return given
    raise SourceError(
        f"the chat template in {folder} is a {type(given).__name__}, not text",
        hint="name one in the recipe: task_options: {chat_template: template.jinja}",
    )


def _sampling(settings: Mapping[str, Any]) -> dict[str, float | int]:
    """Empty for a model that its makers run greedily."""
    found: dict[str, float | int] = {}
    penalty = settings.get("repetition_penalty")
    if isinstance(penalty, (int, float)) and penalty != 1:
        found["repetition_penalty"] = float(penalty)
    if not settings.get("do_sample"):
        return found
    for name in _SAMPLING:
        value = settings.get(name, 1.0 if name == "temperature" else None)
        if isinstance(value, (int, float)) and value != _NEUTRAL.get(name):
            found[name] = int(value) if name == "top_k" else float(value)
    return found
