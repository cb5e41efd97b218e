"""For tests: a decoder that needs no vendor's library, whose answers are known beforehand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_edge.backend import Generation, Graph, TensorSpec, Vocabulary
from lepton_edge.errors import InferenceError
from lepton_edge.generation.stepping import Limits, StepGenerator

if TYPE_CHECKING:
    from numpy.typing import NDArray

STOP = 3
"""The token that ends an answer of `FakeStepper`."""
WORDS = range(4, 104)
"""The tokens that it says otherwise: w0 to w99 of `generative_tokenizer`."""
_SPECIAL = ("[PAD]", "[UNK]", "[BOS]", "[EOS]")
_ROWS = 8


def fake_answer(
    prompt: Sequence[int], count: int, seed: int = 0, *, stops: bool = True
) -> list[int]:
    """The greedy answer of `FakeStepper` to a prompt: ``count`` tokens, or up to `STOP` where that
    comes before; unless it ``stops``, what it says after that as well."""
    text = list(prompt)
    for _ in range(count):
        text.append(_next(text, seed))
        if stops and text[-1] == STOP:
            break
    return text[len(prompt) :]


def _next(text: Sequence[int], seed: int) -> int:
    number = (sum(text) + len(text) + seed) % (len(WORDS) + 1)
    return STOP if number == len(WORDS) else WORDS[number]


class FakeStepper:
    """A `lepton_edge.generation.loop.Stepper` whose most likely token is the sum of a text's tokens
    and their number; the others are as likely as it happens, the same each time.

    It sees a text as a decoder does, through its cache, the mask and the positions. ``shapes`` has
    those of each step's input; ``fail_with``, where set, is raised by the next step, once.
    """

    def __init__(
        self, seed: int, vocabulary: int, max_length: int, max_batch: int = 2**31 - 1
    ) -> None:
        self.details = {"compute": "fp32"}
        self.max_length = max_length
        self.max_batch = max_batch
        self.shapes: list[tuple[int, ...]] = []
        self.fail_with: Exception | None = None
        self.has_cache = self.is_closed = False
        self._seed = seed
        self._vocabulary = vocabulary
        self._tokens = np.zeros((0, 0), np.int64)

    def start(self, batch: int) -> None:
        if self.is_closed:
            raise InferenceError("the fake decoder is closed")
        self.has_cache = True
        self._tokens = np.zeros((batch, 0), np.int64)

    def step(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        position_ids: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        if not self.has_cache:
            raise InferenceError("the fake decoder has no text: it was not started, or was freed")
        error, self.fail_with = self.fail_with, None
        if error is not None:
            raise error
        self.shapes.append(input_ids.shape)
        self._tokens = np.concatenate([self._tokens, input_ids], axis=1)
        if attention_mask.shape != self._tokens.shape or position_ids.shape != input_ids.shape:
            raise InferenceError("the mask or the positions are not of the text's shape")
        rows = zip(self._tokens, attention_mask == 1, position_ids, strict=True)
        return np.stack([self._logits(*row) for row in rows])

    def free(self) -> None:
        self.has_cache = False

    def close(self) -> None:
        self.free()
        self.is_closed = True

    def _logits(
        self, tokens: NDArray[Any], real: NDArray[np.bool_], positions: NDArray[Any]
    ) -> NDArray[np.float32]:
        text = tokens[real].tolist()
        if real[-1] and positions[-1] != len(text) - 1:
            raise InferenceError(f"the last token is at {positions[-1]}, not at {len(text) - 1}")
        number = sum(text) + len(text) + self._seed
        logits = (np.arange(self._vocabulary) * 7919 + number * 31) % 997 / np.float32(997)
        logits[_next(text, self._seed)] = 5
        found: NDArray[np.float32] = logits.astype(np.float32)
        return found


class FakeGenerator(StepGenerator):
    """Over a `FakeStepper`, which is at hand as ``stepper``."""

    def __init__(self, stepper: FakeStepper, generation: Generation, vocabulary: int) -> None:
        self.stepper = stepper
        length = min(generation.max_length, stepper.max_length)
        tokens = generation.cache_tokens or _ROWS * length
        limits = Limits(_ROWS, length, tokens, vocabulary)
        super().__init__(stepper, limits, generation.tokenizer, "FAKE")


def generative_tokenizer() -> str:
    """A byte-level tokenizer.json that knows a few words as well, w0 to w99, which are the tokens
    that `FakeStepper` says; a text begins with [BOS]."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    space = "\u0120"  # a blank, as byte-level tokenizers write it
    words = [f"{space}w{number}" for number in range(len(WORDS))]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*_SPECIAL, *words, *letters, f"{space}w"]
    merges = [(space, "w")]
    merges += [(word[:-1], word[-1]) for word in sorted(words, key=len)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer: Any = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(piece, special=True) for piece in _SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A", special_tokens=[("[BOS]", vocabulary["[BOS]"])]
    )
    written: str = tokenizer.to_str()
    return written


def vocabulary_size() -> int:
    """Of `generative_tokenizer`."""
    return len(json.loads(generative_tokenizer())["model"]["vocab"])


def generative_graph() -> Graph:
    """A decoder's, of one layer, with the words of `generative_tokenizer`; it computes nothing."""
    tokens, cache = ("batch", "length"), ("batch", 1, "past", 1)
    present = ("batch", 1, "total", 1)
    return Graph(
        inputs=(
            TensorSpec("input_ids", "int64", tokens),
            TensorSpec("attention_mask", "int64", ("batch", "total")),
            TensorSpec("position_ids", "int64", tokens),
            TensorSpec("past.0.key", "float32", cache),
            TensorSpec("past.0.value", "float32", cache),
        ),
        outputs=(
            TensorSpec("logits", "float32", ("batch", vocabulary_size())),
            TensorSpec("present.0.key", "float32", present),
            TensorSpec("present.0.value", "float32", present),
        ),
        onnx=Path("none"),
        vocabulary=Vocabulary((), (STOP,)),
    )
