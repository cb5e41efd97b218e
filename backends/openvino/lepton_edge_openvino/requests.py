"""A request as openvino-genai takes it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from lepton_edge.errors import InputError
from lepton_edge.generation.loop import check_length
from lepton_edge_openvino.library import openvino

if TYPE_CHECKING:
    from lepton_edge.generation.request import Request
    from lepton_edge.generation.sampling import Sampling

_SEED_BITS = 32  # of openvino-genai's random numbers
# openvino-genai wants a token that ends an answer: one that no vocabulary has.
_NO_TOKEN = 2**31 - 1


class Requests:
    """Makes openvino-genai's configuration of each request.

    ``guesses`` are the settings of speculative decoding, ``samples`` whether answers may be drawn;
    ``end`` are the tokens that end an answer that is held to a grammar.
    """

    def __init__(
        self,
        genai: Any,
        adapters: Collection[str] = (),
        guesses: Mapping[str, int] | None = None,
        samples: bool = True,
        end: Collection[int] = (),
    ) -> None:
        self._genai = genai
        self._adapters = adapters
        self._guesses = guesses or {}
        self._samples = samples
        self._end = frozenset(end)

    def ids(self, request: Request) -> Any:
        """The prompt as a tensor."""
        import numpy as np

        return openvino().Tensor(np.array([request.prompt], np.int64))

    def any_prompt(self) -> Any:
        """A prompt of one token."""
        import numpy as np

        return openvino().Tensor(np.zeros((1, 1), np.int64))

    def config(self, request: Request, max_length: int) -> Any:
        """Raises `InputError` for what can never be answered."""
        self._check(request, max_length)
        config = self.plain(request.max_tokens, request.stop_tokens)
        config.logprobs = int(request.logprobs)
        _sample(config, request.sampling)
        if request.grammar is not None:
            from lepton_edge.generation.grammar import to_ebnf

            stops = request.stop_tokens | self._end
            config.stop_token_ids, config.eos_token_id = set(stops), min(stops)
            # Its own schemas let white space come without end, and pass over keywords (2026.4.1).
            config.structured_output_config = self._genai.StructuredOutputConfig(
                grammar=to_ebnf(request.grammar)
            )
        return config

    def plain(self, max_tokens: int, stop_tokens: Collection[int] = ()) -> Any:
        """The most likely tokens, so many at most."""
        config = self._genai.GenerationConfig()
        stops = set(stop_tokens) or {_NO_TOKEN}
        config.max_new_tokens = max_tokens
        config.stop_token_ids, config.eos_token_id = stops, min(stops)
        config.apply_chat_template = False
        for name, value in self._guesses.items():
            setattr(config, name, value)
        return config

    def _check(self, request: Request, max_length: int) -> None:
        check_length(request, max_length)
        if request.sampling.logit_bias:
            raise InputError(
                "logit_bias is not for OpenVINO: openvino-genai has no such option",
                hint="json_schema, regex and stop shape an answer here",
            )
        if request.sampling.temperature > 0 and not self._samples:
            raise InputError(
                f"temperature is {request.sampling.temperature}: with a draft, openvino-genai "
                "gives only the most likely tokens",
                hint="temperature=0, or load without the draft, with prompt_lookup=True",
            )
        if request.grammar is not None and not self._end:
            raise InputError(
                "answers of this model cannot be held to a grammar: the bundle has no vocabulary",
                hint="the tokens of its tokenizer are no bytes of text, of which the build warned; "
                "or the bundle is older: build it again",
            )
        for name, _ in request.adapters:
            if name not in self._adapters:
                known = ", ".join(self._adapters) or "none"
                raise InputError(
                    f"there is no adapter {name!r}; opened: {known}",
                    hint="load(path, adapters={name: path})",
                )


def _sample(config: Any, sampling: Sampling) -> None:
    config.repetition_penalty = sampling.repetition_penalty
    config.presence_penalty = sampling.presence_penalty
    config.frequency_penalty = sampling.frequency_penalty
    if sampling.temperature == 0:
        return
    import secrets

    config.do_sample = True
    config.temperature = sampling.temperature
    config.top_p = sampling.top_p
    config.min_p = sampling.min_p
    if sampling.top_k:
        config.top_k = sampling.top_k
    seed = secrets.randbits(_SEED_BITS) if sampling.seed is None else sampling.seed
    config.rng_seed = seed % 2**_SEED_BITS
