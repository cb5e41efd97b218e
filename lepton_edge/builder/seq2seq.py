"""A Hugging Face folder of an encoder-decoder language model as a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.modeling_outputs import BaseModelOutput

from lepton_edge.backend import Graph
from lepton_edge.builder.causal_lm import load_model
from lepton_edge.builder.decoder import Attention
from lepton_edge.builder.encoder_decoder import encoder_decoder_graphs
from lepton_edge.builder.families import max_positions
from lepton_edge.builder.source_frames import learn_frames
from lepton_edge.generation.decoding import constrained
from lepton_edge.runtime.text import ATTENTION_MASK, INPUT_IDS
from lepton_edge.tasks.text_to_text import TextToTextFacts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lepton_edge.backend import Tensors
    from lepton_edge.builder.tokenizers import SourceTokenizer
    from lepton_edge.generation.decoding import Decoding

# Of a family whose positions are relative there is no longest text; this is what a recipe may ask.
_MOST_TOKENS = 8192
_DEFAULT_LENGTH = 512
# Which generation_config.json may leave to config.json.
_TOKENS = ("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id")


class Seq2SeqLM:
    """An `Original` that is a transformers model for conditional generation, with transformers' own
    tokenizer."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer

    @property
    def name(self) -> str:
        """The model's class, for messages."""
        return type(self.model).__name__

    def graph(self, task: str, config: Any, work: Path) -> Graph:
        """Its decoder, in the form that is nobody's in particular: see `graphs`."""
        return self.graphs("eager", None)[1]

    def graphs(self, attention: Attention, max_length: int | None) -> tuple[Graph, Graph]:
        """The encoder and the decoder: see `encoder_decoder_graphs`. Raises
        `UnsupportedModelError`."""
        return encoder_decoder_graphs(self.model, attention=attention, max_length=max_length)

    def run(self, feeds: Tensors) -> dict[str, NDArray[np.float32]]:
        """``logits`` float32 [batch, answer, vocabulary] of whole answers to whole texts:
        ``input_ids``, ``attention_mask`` and ``decoder_input_ids``."""
        with torch.no_grad():
            logits = self.model(
                input_ids=torch.from_numpy(feeds[INPUT_IDS]),
                attention_mask=torch.from_numpy(feeds[ATTENTION_MASK]),
                decoder_input_ids=torch.from_numpy(feeds["decoder_input_ids"]),
            ).logits
        return {"logits": logits.float().numpy()}

    def answer(self, text: str, decoding: Decoding) -> list[int]:
        """The tokens of a text that a model is to write: the first one that a search forces, and
        the one that ends it, among them."""
        # Marian's answers are cut by a model of their own; others have to be told a language there.
        side = "text_target" if hasattr(self.tokenizer, "spm_target") else "text"
        ids = self.tokenizer(**{side: text}, add_special_tokens=False).input_ids
        first = decoding.forced_bos_token_id
        return [*([] if first is None else [first]), *ids, *decoding.eos_token_ids[:1]]

    def greedy(self, text: Sequence[int], decoding: Decoding) -> list[int]:
        """The answer to a text, given as token ids: the likeliest token each time, under the rules
        of a search, the one that ends it among them."""
        import numpy as np

        ids = torch.tensor([list(text)])
        answer = [decoding.decoder_start_token_id]
        past = None
        with torch.no_grad():
            hidden = self.model.get_encoder()(input_ids=ids, attention_mask=torch.ones_like(ids))
            encoded = BaseModelOutput(last_hidden_state=hidden.last_hidden_state)
            while len(answer) <= decoding.max_new_tokens:
                output = self.model(
                    encoder_outputs=encoded,
                    attention_mask=torch.ones_like(ids),
                    decoder_input_ids=torch.tensor([answer[-1:]]),
                    past_key_values=past,
                    use_cache=True,
                )
                past = output.past_key_values
                scores = output.logits[:, -1].float().numpy()
                answer.append(int(constrained(scores, np.array([answer]), decoding).argmax()))
                if answer[-1] in decoding.eos_token_ids:
                    break
        return answer[1:]


def load_seq2seq(folder: Path, config: Any, tokenizer: Any) -> Seq2SeqLM:
    """The model, in float32. Raises `SourceError`."""
    from transformers import AutoModelForSeq2SeqLM

    return Seq2SeqLM(load_model(AutoModelForSeq2SeqLM, folder, config, torch.float32), tokenizer)


def text_to_text_facts(original: Seq2SeqLM, own: SourceTokenizer) -> TextToTextFacts:
    """What a folder says of texts and answers. ``own`` is what the bundle will have of the
    tokenizer.

    Raises `SourceError` where both cut texts into different tokens.
    """
    config = original.model.config
    values = original.model.generation_config.to_dict()
    for name in _TOKENS:
        if values.get(name) is None:
            values[name] = getattr(config, name, None)
    if values["pad_token_id"] is None:
        values["pad_token_id"] = own.pad_id
    params = getattr(config, "task_specific_params", None) or {}
    frames = learn_frames(original.tokenizer, own.json, values, config.vocab_size)
    return TextToTextFacts(
        generation=values,
        tasks={name: dict(each) for name, each in params.items() if isinstance(each, Mapping)},
        frame=frames.default,
        languages=frames.languages,
        source_language=frames.source_language,
        target_language=frames.target_language,
    )


def lengths(config: Any, tokenizer: SourceTokenizer) -> tuple[int, int]:
    """The longest text, or answer, that the model takes, and what it is where a recipe does not
    say."""
    positions = max_positions(config.to_dict())
    most = positions or _MOST_TOKENS
    return most, min(most, tokenizer.max_length or positions or _DEFAULT_LENGTH)
