"""From the texts that a user gives to what a generator is asked, for models that answer a text with
another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lepton_edge.errors import InputError
from lepton_edge.generation.request import Request
from lepton_edge.generation.text import Detokenizer, StopStrings
from lepton_edge.runtime.answers import Answer
from lepton_edge.runtime.prompts import Prompt

if TYPE_CHECKING:
    from lepton_edge.generation.decoding import Decoding
    from lepton_edge.runtime.text import TextEncoder
    from lepton_edge.tasks.text_to_text import Asked, TextToText, TextToTextParameters

_EXAMPLE, _EXAMPLE_TOKENS = "Once upon a time", 2


class SourceTexts:
    """Reads texts for one opened model. Safe from many threads.

    ``max_length`` is the most tokens of a text, and of an answer.
    """

    def __init__(self, task: TextToText, encoder: TextEncoder, max_length: int) -> None:
        self.task = task
        self.encoder = encoder
        self.max_length = max_length

    def several(self, inputs: Any) -> bool:
        """Whether this is a list of texts."""
        return isinstance(inputs, Sequence) and not isinstance(inputs, (str, bytes))

    def example(self) -> tuple[str, dict[str, Any]]:
        """A text and parameters to warm up with."""
        return _EXAMPLE, {**self.task.example(), "max_tokens": _EXAMPLE_TOKENS}

    def read(self, given: Any, asked: TextToTextParameters, position: int) -> Prompt:
        """A text as the user gave it. ``position`` is its place in a list, from 1, for messages.

        Raises `InputError`.
        """
        wanted = self.task.asked(asked)
        decoding = self._within(wanted.decoding, asked)
        ids, truncated = self.tokens(given, wanted, f"text {position}")
        request = Request(
            prompt=ids,
            max_tokens=decoding.max_new_tokens,
            stop_tokens=frozenset(decoding.eos_token_ids),
            decoding=decoding,
        )
        stops = (*self.task.config.stop, *asked.stops())
        return Prompt(
            tuple(replace(request, rank=rank) for rank in range(asked.num_return_sequences)),
            lambda: Answer(
                Detokenizer(self.encoder.decode),
                StopStrings(stops),
                None,
                request.stop_tokens,
                len(ids),
                truncated,
            ),
        )

    def tokens(self, given: Any, wanted: Asked, name: str) -> tuple[list[int], bool]:
        """A text's tokens with those around them, and whether its end was cut off. ``name`` is the
        text's own, for messages.

        Raises `InputError` as `TextEncoder.encode` does.
        """
        if isinstance(given, str) and given.strip():  # an empty one is refused as that
            given = wanted.prefix + given
        (ids,) = self.encoder.pieces([given], lambda _: name)
        before, after = wanted.frame.before, wanted.frame.after
        length = len(before) + len(ids) + len(after)
        truncated = length > self.max_length
        if truncated and self.encoder.text.on_long_text == "refuse":
            raise InputError(
                f"{name} has {length:,} tokens; this bundle takes up to {self.max_length:,}",
                hint="split the text, or build with text.on_long_text: truncate",
            )
        kept = max(self.max_length - len(before) - len(after), 0)
        return [*before, *ids[:kept], *after], truncated

    def _within(self, decoding: Decoding, asked: TextToTextParameters) -> Decoding:
        """No longer answers than the model has positions for. A call that names a number has to
        name one that fits."""
        for name in ("max_tokens", "min_tokens"):
            value = getattr(asked, name)
            if value is not None and value > self.max_length:
                raise InputError(
                    f"{name} is {value:,}; an answer of this bundle has up to {self.max_length:,}",
                    hint=f"ask for at most {self.max_length:,}",
                )
        most = min(decoding.max_new_tokens, self.max_length)
        return replace(
            decoding, max_new_tokens=most, min_new_tokens=min(decoding.min_new_tokens, most)
        )
