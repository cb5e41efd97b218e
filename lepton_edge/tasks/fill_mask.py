"""Fill-mask: the words that a masked language model would put where a mask is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lepton_edge.errors import BundleError, InputError, SourceError
from lepton_edge.runtime.text import Tokenization, Tokens
from lepton_edge.tasks.base import Dimensions, Facts, Task, check_count, softmax

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lepton_edge.backend import Tensors
    from lepton_edge.runtime.text import TextEncoder

_Best = list[tuple[int, float]]  # tokens and their probabilities, best first


@dataclass(frozen=True)
class Prediction:
    """A token for a mask.

    ``token`` is its text: with a space before it where the tokenizer marks the beginning of words
    so, and with the tokenizer's own mark (such as ``##``) where it goes on the word before.
    ``score`` is its probability, 0 to 1, among all tokens of the vocabulary. ``text`` is the text
    with it in the mask's place; other masks stay.
    """

    token: str
    score: float
    text: str

    def __str__(self) -> str:
        return f"{self.score:6.1%}  {self.token.strip()}"


@dataclass(frozen=True)
class Mask:
    """A mask of a text and the most likely tokens for it, best first.

    ``text[start:end]`` is the mask in the text as it was given.
    """

    start: int
    end: int
    predictions: tuple[Prediction, ...]


@dataclass(frozen=True)
class FilledMasks:
    """A text's masks, in their order. ``truncated``: the text was longer than the model takes."""

    masks: tuple[Mask, ...]
    truncated: bool = False

    def __str__(self) -> str:
        note = ("(text truncated)",) if self.truncated else ()
        blocks = ["\n".join(map(str, mask.predictions)) for mask in self.masks]
        if len(blocks) > 1:
            blocks = [f"mask {number}\n{block}" for number, block in enumerate(blocks, 1)]
        return "\n".join((*blocks, *note))


@dataclass(frozen=True)
class FillMaskOptions:
    """``task_options`` of a recipe for fill-mask."""

    mask_token: str | None = None
    """The token that stands for what is missing, such as `[MASK]`; the tokenizer's own where
    absent."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  (a ClassVar to pydantic)


@dataclass(frozen=True)
class FillMaskConfig:
    """The manifest's block."""

    mask_token: str
    """The token that stands for what is missing."""


@dataclass(frozen=True)
class FillMaskParameters:
    """What a call may give."""

    top_k: int = 5
    """How many tokens each mask gets."""
    targets: Sequence[str] | None = None
    """Words to choose among, each a token of the model; the whole vocabulary where None."""

    def __post_init__(self) -> None:
        check_count("top_k", self.top_k)
        if self.targets is None:
            return
        if isinstance(self.targets, str) or not isinstance(self.targets, Sequence):
            raise InputError(f"targets is of type {type(self.targets).__name__}: a list of words")
        if not self.targets:
            raise InputError("targets is empty", hint="leave it out to choose among all words")
        for index, word in enumerate(self.targets):
            if not isinstance(word, str):
                raise InputError(f"target {index + 1} is of type {type(word).__name__}: a word")


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedTokens(Tokens):
    """A sequence with masks: where they are, what may fill them (None: anything), and the encoder
    that knows the tokens' texts."""

    masks: tuple[int, ...]
    targets: tuple[int, ...] | None
    encoder: TextEncoder


class FillMask(Task[str, FilledMasks]):
    """Reads ``logits`` of shape [batch, length, vocabulary].

    Scores are those of the transformers pipeline: softmax over the vocabulary at the mask, each
    mask by itself. Where that takes the first token of a target of several, and a word inside a
    word for a target of tokenizers that mark where words begin, a target here is a whole word of
    one token, and any other is refused.
    """

    name: ClassVar[str] = "fill-mask"
    outputs: ClassVar[Mapping[str, Dimensions]] = {"logits": ("batch", "length", "size")}
    Options = FillMaskOptions
    Config = FillMaskConfig
    Parameters = FillMaskParameters
    config: FillMaskConfig

    @staticmethod
    def configure(options: FillMaskOptions, facts: Facts) -> FillMaskConfig:
        mask = options.mask_token or facts.mask_token
        if mask is None:
            raise SourceError(
                "the model's tokenizer names no mask token",
                hint="if it has one, name it in the recipe: task_options: {mask_token: '[MASK]'}",
            )
        return FillMaskConfig(mask)

    def tokenization(self) -> Tokenization:
        """With offsets, for the masks' places in the text."""
        return Tokenization(offsets=True)

    def tokenize(
        self,
        inputs: Sequence[str],
        encoder: TextEncoder,
        parameters: FillMaskParameters,
        first: int,
    ) -> list[list[Tokens]]:
        mask = encoder.token_of(self.config.mask_token)
        if mask is None:
            raise BundleError(
                f"the tokenizer has no token {self.config.mask_token!r}",
                hint="build again with the mask token that it has: task_options: {mask_token: …}",
            )
        targets = None if parameters.targets is None else _ids_of(parameters.targets, encoder)
        groups: list[list[Tokens]] = []
        for position, tokens in enumerate(encoder.encode(inputs, first), first):
            masks = tuple(place for place, token in enumerate(tokens.ids) if token == mask)
            self._check_masks(position, masks, tokens, mask, encoder.max_length)
            groups.append(
                [
                    MaskedTokens(
                        tokens.ids,
                        tokens.type_ids,
                        tokens.truncated,
                        tokens.encoding,
                        masks=masks,
                        targets=targets,
                        encoder=encoder,
                    )
                ]
            )
        return groups

    def read(
        self, outputs: Tensors, sequences: Sequence[Tokens], parameters: FillMaskParameters
    ) -> Sequence[Any]:
        """Of each mask the best tokens, so that no logits of a whole vocabulary are kept."""
        return [
            [_best(row[place], tokens.targets, parameters.top_k) for place in tokens.masks]
            for row, tokens in zip(outputs["logits"], _masked(sequences), strict=True)
        ]

    def result(
        self,
        given: str,
        sequences: Sequence[Tokens],
        values: Sequence[Any],
        parameters: FillMaskParameters,
    ) -> FilledMasks:
        (tokens,), (found,) = _masked(sequences), values
        masks = [
            _mask(given, tokens, place, best)
            for place, best in zip(tokens.masks, found, strict=True)
        ]
        return FilledMasks(tuple(masks), tokens.truncated)

    def examples(self, texts: Sequence[str]) -> tuple[list[str], FillMaskParameters]:
        """Each text after a mask: in front, where no truncation reaches it."""
        return [f"{self.config.mask_token} {text}" for text in texts], FillMaskParameters()

    def labels_of(self, outputs: Mapping[str, NDArray[np.float32]]) -> NDArray[np.generic]:
        """The best token at each place: all of them, as a mask's own is often a near thing."""
        best: NDArray[np.generic] = outputs["logits"].argmax(axis=-1)
        return best[:, None]

    def _check_masks(
        self, position: int, masks: Sequence[int], tokens: Tokens, mask: int, longest: int
    ) -> None:
        name = self.config.mask_token
        rest = tokens.encoding.overflowing if tokens.encoding and tokens.truncated else ()
        if any(mask in part.ids for part in rest):
            raise InputError(
                f"text {position} is longer than the {longest:,} tokens that the model reads, "
                f"and has a {name} after them",
                hint="shorten it",
            )
        if not masks:
            raise InputError(
                f"text {position} has no {name}, which is what the model fills in",
                hint=f"put it in a word's place: 'The capital of France is {name}.'",
            )


def _masked(sequences: Sequence[Tokens]) -> list[MaskedTokens]:
    return [tokens for tokens in sequences if isinstance(tokens, MaskedTokens)]


def _best(logits: NDArray[np.float32], targets: Sequence[int] | None, top_k: int) -> _Best:
    """The most likely tokens; of equal ones the first of the targets, or of the vocabulary."""
    import numpy as np

    scores = softmax(logits)
    ids = np.arange(len(scores)) if targets is None else np.array(targets)
    scores = scores[ids]
    count = min(top_k, len(scores))
    # Sorting a whole vocabulary takes ten times as long as finding the lowest that counts.
    lowest = np.partition(scores, len(scores) - count)[len(scores) - count]
    kept = np.flatnonzero(scores >= lowest)
    order = kept[(-scores[kept]).argsort(kind="stable")][:count]
    return list(zip(ids[order].tolist(), scores[order].tolist(), strict=True))


def _mask(text: str, tokens: MaskedTokens, place: int, best: _Best) -> Mask:
    assert tokens.encoding is not None, "made with offsets"
    start, end = tokens.encoding.offsets[place]
    # A tokenizer may count the space before a mask among it.
    start = end - len(text[start:end].lstrip())
    encoder = tokens.encoder
    before = tokens.ids[max(place - 1, 0) : place]
    predictions = [
        Prediction(
            encoder.decode([token], skip_special_tokens=False),
            score,
            _filled(text[:start], encoder, before, token) + text[end:],
        )
        for token, score in best
    ]
    return Mask(start, end, tuple(predictions))


def _filled(text: str, encoder: TextEncoder, before: list[int], token: int) -> str:
    """A text with a token after it, put as the tokenizer would between words or inside one."""
    alone = encoder.decode(before, skip_special_tokens=False) if before else ""
    both = encoder.decode([*before, token], skip_special_tokens=False)
    piece = both[len(alone) :] if both.startswith(alone) else f" {both}"
    if not before or not piece.startswith(" "):
        return (text.rstrip() if before else text) + piece
    # Tokenizers that mark where words begin mean it: others begin one after every token.
    apart = encoder.subword_prefix is None and text and not text[-1].isspace()
    return f"{text} {piece[1:]}" if apart else text + piece[1:]


def _ids_of(targets: Sequence[str], encoder: TextEncoder) -> tuple[int, ...]:
    """The token of each target. Raises `InputError` for one that is not a token."""

    def name(index: int) -> str:
        return f"target {index + 1} ({targets[index][:40]!r})"

    # After a space, which is where a tokenizer that marks the beginning of words has its words.
    pieces = encoder.pieces([f" {word.strip()}" for word in targets], name)
    unknown = encoder.unknown_id
    found: dict[int, int] = {}
    for index, (word, ids) in enumerate(zip(targets, pieces, strict=True)):
        token = ids[0] if len(ids) == 1 and ids[0] != unknown else encoder.token_of(word)
        if token is None:
            known = unknown not in ids
            what = f"{len(ids)} tokens of the model" if known else "not in the model's vocabulary"
            raise InputError(
                f"{name(index)} is {what}: a mask takes one token", hint="leave it out"
            )
        before = found.setdefault(token, index)
        if before != index:
            raise InputError(
                f"{name(index)} is the same token as {name(before)}",
                hint="leave one of them out",
            )
    return tuple(found)
