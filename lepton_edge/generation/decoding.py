"""What an encoder-decoder model may write: the settings of a search, and the scores under them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lepton_edge.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Scores = NDArray[np.float32]
    Tokens = NDArray[np.int64]

# What else a generation_config.json may have that changes a greedy or beam search, with the values
# that change nothing.
_OTHERS: Mapping[str, tuple[object, ...]] = {
    "begin_suppress_tokens": (None, []),
    "diversity_penalty": (None, 0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "encoder_repetition_penalty": (None, 1),
    "exponential_decay_length_penalty": (None,),
    "guidance_scale": (None, 1),
    "num_beam_groups": (None, 1),
    "sequence_bias": (None, {}, []),
}


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How an encoder-decoder model's answer is searched.

    The names and their meaning are those of transformers' generation_config.json, but that lengths
    are of what is generated: ``decoder_start_token_id`` does not count.

    Raises `InputError` for a value out of range.
    """

    decoder_start_token_id: int
    """What every answer starts with; it is no part of what is given back."""
    pad_token_id: int
    """What fills up texts that are shorter than others of a batch."""
    eos_token_ids: tuple[int, ...] = ()
    """Tokens that end an answer."""
    max_new_tokens: int = 256
    """How many tokens an answer may have."""
    min_new_tokens: int = 0
    """How many it has at least."""
    num_beams: int = 1
    """How many beginnings of an answer a beam search goes on with."""
    length_penalty: float = 1.0
    """An answer's score is its log-probability over its length to this power: above 0, longer
    answers gain."""
    early_stopping: bool | Literal["never"] = False
    """When a beam search ends: with as many answers as it has beams (True), when a better one is
    unlikely (False), or impossible ("never")."""
    no_repeat_ngram_size: int = 0
    """No sequence of so many tokens comes twice in an answer; 0 for no such rule."""
    repetition_penalty: float = 1.0
    """Scores of tokens that the answer has are divided by it where positive, and multiplied where
    negative (Keskar et al. 2019); 1 for no penalty."""
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    """Sequences of tokens that an answer never has."""
    suppress_tokens: tuple[int, ...] = ()
    """Tokens that an answer never has, forced ones included."""
    forced_bos_token_id: int | None = None
    """The first token: of a model for many languages, the one to translate into."""
    forced_eos_token_id: int | None = None
    """The last token of an answer that is as long as it may be."""
    renormalize_logits: bool = False
    """Whether scores are made log-probabilities again after all rules."""

    def __post_init__(self) -> None:
        _check("max_new_tokens", self.max_new_tokens, 1)
        _check("min_new_tokens", self.min_new_tokens, 0)
        _check("num_beams", self.num_beams, 1)
        _check("no_repeat_ngram_size", self.no_repeat_ngram_size, 0)
        if self.min_new_tokens > self.max_new_tokens:
            raise InputError(
                f"min_new_tokens is {self.min_new_tokens}, and max_new_tokens "
                f"{self.max_new_tokens}: it is no more than that"
            )
        if not _is_number(self.length_penalty):
            raise InputError(f"length_penalty is {self.length_penalty!r}: it is a number")
        if not (_is_number(self.repetition_penalty) and self.repetition_penalty > 0):
            raise InputError(
                f"repetition_penalty is {self.repetition_penalty!r}: it is a number above 0"
            )
        if self.early_stopping not in (True, False, "never"):
            raise InputError(
                f"early_stopping is {self.early_stopping!r}: it is true, false or 'never'"
            )
        if any(not words for words in self.bad_words_ids):
            raise InputError("bad_words_ids has a sequence of no tokens")

    @classmethod
    def from_generation_config(cls, values: Mapping[str, Any], **changes: Any) -> Decoding:
        """What a model's generation_config.json says, with these changes.

        Raises `InputError` for a setting that it has and that no search here knows, and for one
        that is missing.
        """
        for name, neutral in _OTHERS.items():
            if name in values and values[name] not in neutral:
                raise InputError(f"generation_config.json asks for {name}, which is not supported")
        found: dict[str, Any] = {
            name: values[name] for name in _SAME if values.get(name) is not None
        }
        ends = _several(values.get("eos_token_id"))
        found["eos_token_ids"] = ends
        if "pad_token_id" not in found and ends:
            found["pad_token_id"] = ends[0]
        if "decoder_start_token_id" not in found and values.get("bos_token_id") is not None:
            found["decoder_start_token_id"] = values["bos_token_id"]
        found["bad_words_ids"] = tuple(tuple(words) for words in values.get("bad_words_ids") or ())
        found["suppress_tokens"] = _several(values.get("suppress_tokens"))
        for name, longer in (("max_new_tokens", "max_length"), ("min_new_tokens", "min_length")):
            if name not in found and values.get(longer) is not None:
                found[name] = max(values[longer] - 1, 0)
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            if len(tokens := _several(values.get(name))) > 1:
                raise InputError(f"{name} in generation_config.json is {list(tokens)}: it is one")
            found[name] = tokens[0] if tokens else None
        found |= changes
        for name in ("decoder_start_token_id", "pad_token_id"):
            if name not in found:
                raise InputError(f"generation_config.json has no {name}")
        return cls(**found)

    def check_vocabulary(self, size: int) -> None:
        """Raise `InputError` for a token that a vocabulary of this size does not have."""
        tokens = {
            "decoder_start_token_id": (self.decoder_start_token_id,),
            "pad_token_id": (self.pad_token_id,),
            "eos_token_ids": self.eos_token_ids,
            "bad_words_ids": tuple(token for words in self.bad_words_ids for token in words),
            "suppress_tokens": self.suppress_tokens,
            "forced_bos_token_id": _several(self.forced_bos_token_id),
            "forced_eos_token_id": _several(self.forced_eos_token_id),
        }
        for name, ids in tokens.items():
            for token in ids:
                if not 0 <= token < size:
                    raise InputError(
                        f"{name} has the token {token}; the model's are 0 to {size - 1}"
                    )


_SAME = (
    "decoder_start_token_id",
    "pad_token_id",
    "max_new_tokens",
    "min_new_tokens",
    "num_beams",
    "length_penalty",
    "early_stopping",
    "no_repeat_ngram_size",
    "repetition_penalty",
    "renormalize_logits",
)


def _several(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def _check(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} is {value!r}: it is a whole number from {least}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def constrained(scores: Scores, tokens: Tokens, decoding: Decoding) -> Scores:
    """The scores of the next token [rows, vocabulary] under all rules: minus infinity for one that
    may not come.

    ``tokens`` [rows, length] are what the rows have, the start token first. ``scores`` are changed
    in place. The rules are applied in transformers' order.
    """
    generated = tokens.shape[1] - 1
    if decoding.repetition_penalty != 1:
        _penalize(scores, tokens, decoding.repetition_penalty)
    if decoding.no_repeat_ngram_size:
        _forbid_repeated(scores, tokens, decoding.no_repeat_ngram_size)
    for words in decoding.bad_words_ids:
        _forbid_sequence(scores, tokens, words, decoding.eos_token_ids)
    if generated < decoding.min_new_tokens:
        scores[:, list(decoding.eos_token_ids)] = -math.inf
    if generated == 0 and decoding.forced_bos_token_id is not None:
        _force(scores, decoding.forced_bos_token_id)
    if generated == decoding.max_new_tokens - 1 and decoding.forced_eos_token_id is not None:
        _force(scores, decoding.forced_eos_token_id)
    scores[:, list(decoding.suppress_tokens)] = -math.inf
    return log_softmax(scores) if decoding.renormalize_logits else scores


def log_softmax(scores: Scores) -> Scores:
    """Logarithms of probabilities over the last axis. ``scores`` are changed in place."""
    import numpy as np

    scores -= scores.max(axis=-1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return scores


def _penalize(scores: Scores, tokens: Tokens, penalty: float) -> None:
    import numpy as np

    seen = np.take_along_axis(scores, tokens, axis=1)
    np.put_along_axis(scores, tokens, np.where(seen < 0, seen * penalty, seen / penalty), axis=1)


def _forbid_repeated(scores: Scores, tokens: Tokens, size: int) -> None:
    """Forbid what would end a sequence of ``size`` tokens that the row has already."""
    import numpy as np

    if tokens.shape[1] < size:
        return
    windows = np.lib.stride_tricks.sliding_window_view(tokens, size, axis=1)
    last = tokens[:, None, tokens.shape[1] - size + 1 :]
    rows, places = np.nonzero((windows[:, :, :-1] == last).all(axis=2))
    scores[rows, windows[rows, places, -1]] = -math.inf


def _forbid_sequence(
    scores: Scores, tokens: Tokens, words: tuple[int, ...], ends: tuple[int, ...]
) -> None:
    *before, last = words
    # As transformers: the token that ends an answer is never a bad word, and the start token is not
    # the beginning of one.
    if len(words) > tokens.shape[1] or (not before and last in ends):
        return
    matching = (tokens[:, tokens.shape[1] - len(before) :] == before).all(axis=1)
    scores[matching, last] = -math.inf


def _force(scores: Scores, token: int) -> None:
    scores[:] = -math.inf
    scores[:, token] = 0
