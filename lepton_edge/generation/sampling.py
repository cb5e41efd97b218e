"""Which token comes next: how logits become a choice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from lepton_edge.errors import InferenceError, InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lepton_edge.generation.grammar import Matcher

# The most likely tokens that top-p looks at first: nearly always enough, and much quicker to sort
# than a whole vocabulary.
_LIKELY = 1024
_MOST_BIASES = 1024
_COLD = 1e-5  # logits that are divided by less no longer fit into float32


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. The defaults take the most likely one each time.

    Applied in this order: the grammar of a request, the bias, the repetition penalty, the presence
    and the frequency penalty, the temperature, top-k, top-p, min-p. It is that of transformers,
    which has neither presence nor frequency penalty; those are where vLLM has them, and as in
    OpenAI's API. Raises `InputError` for a value out of range.
    """

    temperature: float = 0.0
    """Logits are divided by it: below 1 the likely tokens become likelier. 0, and what is next to
    nothing, takes the most likely one, whatever top-k, top-p and min-p say."""
    top_k: int = 0
    """Only the k most likely tokens; 0 for all."""
    top_p: float = 1.0
    """Only the most likely tokens whose probabilities sum to p (nucleus sampling, Holtzman et al.
    2020); 1 for all."""
    min_p: float = 0.0
    """Only tokens that are at least p times as likely as the most likely one (Nguyen et al. 2024);
    0 for all."""
    repetition_penalty: float = 1.0
    """Logits of tokens that the prompt or the answer has are divided by it where positive, and
    multiplied where negative (Keskar et al. 2019); 1 for no penalty."""
    presence_penalty: float = 0.0
    """Taken from the logits of tokens that the answer has; 0 for no penalty."""
    frequency_penalty: float = 0.0
    """Taken from the logits of tokens that the answer has, as often as it has them; 0 for no
    penalty."""
    logit_bias: Mapping[int, float] | tuple[tuple[int, float], ...] = ()
    """Added to the logits of these tokens, by id. Kept as pairs, in order."""
    seed: int | None = None
    """The same seed gives the same text again; None draws one."""

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, "a number from 0", lowest=0)
        _check("top_k", self.top_k, "a whole number from 0", lowest=0, whole=True)
        _check("top_p", self.top_p, "a number above 0, up to 1", above=0, highest=1)
        _check("min_p", self.min_p, "a number from 0 to 1", lowest=0, highest=1)
        _check("repetition_penalty", self.repetition_penalty, "a number above 0", above=0)
        for name in ("presence_penalty", "frequency_penalty"):
            _check(name, getattr(self, name), "a number from -2 to 2", lowest=-2, highest=2)
        if self.seed is not None:
            _check("seed", self.seed, "a whole number from 0", lowest=0, whole=True)
        object.__setattr__(self, "logit_bias", _pairs(self.logit_bias))

    @property
    def biases(self) -> tuple[tuple[int, float], ...]:
        """``logit_bias`` as it is kept."""
        return cast("tuple[tuple[int, float], ...]", self.logit_bias)

    @property
    def is_greedy(self) -> bool:
        """Whether it takes the most likely token."""
        return self.temperature < _COLD


def _pairs(given: object) -> tuple[tuple[int, float], ...]:
    """A bias as pairs in order of their tokens. Raises `InputError`."""
    try:
        found: dict[Any, Any] = dict(given)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise InputError(f"logit_bias is {given!r}: it is numbers by token id") from None
    if len(found) > _MOST_BIASES:
        raise InputError(f"logit_bias has {len(found):,} tokens: it may have {_MOST_BIASES:,}")
    for token, bias in found.items():
        _check("a token id of logit_bias", token, "a whole number from 0", lowest=0, whole=True)
        _check(
            f"logit_bias of token {token}",
            bias,
            "a number from -100 to 100",
            lowest=-100,
            highest=100,
        )
    return tuple(sorted(found.items()))


def _check(
    name: str,
    value: object,
    takes: str,
    *,
    lowest: float = -math.inf,
    above: float = -math.inf,
    highest: float = math.inf,
    whole: bool = False,
) -> None:
    number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if (
        number
        and isinstance(value, (int, float))
        and math.isfinite(value)
        and lowest <= value <= highest
        and value > above
    ):
        return
    raise InputError(f"{name} is {value!r}: it is {takes}")


class Sampler:
    """Chooses the next token of one text.

    It has random numbers of its own, by the seed and the text's ``place`` among others that share
    the seed: what other texts of a batch hold, and when they end, changes nothing for it.
    """

    def __init__(self, sampling: Sampling, place: int = 0) -> None:
        import numpy as np

        self._sampling = sampling
        # That of no seed is drawn by numpy for each.
        self._random = np.random.default_rng(
            np.random.SeedSequence(sampling.seed, spawn_key=(place,))
        )

    def choose(
        self,
        logits: NDArray[np.float32],
        prompt: Sequence[int],
        answer: Sequence[int],
        matcher: Matcher | None = None,
    ) -> int:
        """The next token, from its logits [vocabulary] and the tokens that the text has so far.
        ``matcher`` is where the answer is in its grammar.

        Raises `InferenceError` where the logits are not numbers, or the grammar allows no token.
        """
        import numpy as np

        if not np.isfinite(logits.max()):  # NaN if one of them is
            raise InferenceError("the model's logits are not numbers: NaN or infinite")
        if matcher is not None:
            logits = logits.astype(np.float32)  # a copy
            matcher.mask(logits)
        scores = processed(logits, prompt, answer, self._sampling)
        if self._sampling.is_greedy:
            return int(scores.argmax())
        kept = np.flatnonzero(scores > -np.inf)
        sums = probabilities(scores[kept]).cumsum()
        drawn = np.searchsorted(sums, self._random.random() * sums[-1], side="right")
        return int(kept[min(drawn, kept.size - 1)])


def processed(
    logits: NDArray[np.float32],
    prompt: Sequence[int],
    answer: Sequence[int],
    sampling: Sampling,
) -> NDArray[np.float32]:
    """Logits [vocabulary] as a token is chosen by them; minus infinity for one that is not."""
    import numpy as np

    scores = logits.astype(np.float32)  # a copy
    _penalize(scores, prompt, answer, sampling)
    if sampling.is_greedy:
        return scores
    scores /= np.float32(sampling.temperature)
    if 0 < sampling.top_k < scores.size:
        least = np.partition(scores, -sampling.top_k)[-sampling.top_k]
        scores[scores < least] = -np.inf
    if sampling.top_p < 1:
        _keep_nucleus(scores, sampling.top_p)
    if sampling.min_p > 0:
        scores[scores < scores.max() + np.log(np.float32(sampling.min_p))] = -np.inf
    return scores


def _penalize(
    scores: NDArray[np.float32], prompt: Sequence[int], answer: Sequence[int], sampling: Sampling
) -> None:
    """The bias and the penalties, in place."""
    import numpy as np

    for token, bias in sampling.biases:
        if token < scores.size:  # the others are no tokens of this model
            scores[token] += np.float32(bias)
    if sampling.repetition_penalty != 1:
        seen = np.unique(np.asarray([*prompt, *answer], np.int64))
        penalty = np.float32(sampling.repetition_penalty)
        scores[seen] = np.where(scores[seen] < 0, scores[seen] * penalty, scores[seen] / penalty)
    if (sampling.presence_penalty or sampling.frequency_penalty) and len(answer):
        said, counts = np.unique(np.asarray(answer, np.int64), return_counts=True)
        taken = sampling.presence_penalty + sampling.frequency_penalty * counts
        scores[said] -= taken.astype(np.float32)


def _keep_nucleus(scores: NDArray[np.float32], top_p: float) -> None:
    """Set the others to minus infinity, in place."""
    import numpy as np

    left = np.flatnonzero(scores > -np.inf)
    shares = probabilities(scores[left])
    likely = np.arange(left.size)  # places among those that are left
    if left.size > 2 * _LIKELY:
        found = np.argpartition(shares, -_LIKELY)[-_LIKELY:]
        if shares[found].sum() > top_p:
            # With all that are as likely as the last of them: their order says which are kept.
            likely = np.flatnonzero(shares >= shares[found].min())
    ascending = likely[np.argsort(scores[left[likely]], kind="stable")]
    rest = max(1 - float(shares[ascending].sum()), 0.0)  # of those that are not looked at
    kept = shares[ascending].cumsum() + rest > 1 - top_p
    kept[-1] = True  # the most likely one stays in any case
    nucleus = left[ascending[kept]]
    values = scores[nucleus]
    scores.fill(-np.inf)
    scores[nucleus] = values


def probabilities(scores: NDArray[np.float32]) -> NDArray[Any]:
    """Softmax, float64."""
    import numpy as np

    largest = scores.max()
    found: NDArray[Any] = np.exp((scores - largest).astype(np.float64))
    found /= found.sum()
    return found


def log_probability(logits: NDArray[np.float32], token: int) -> float:
    """The natural logarithm of the probability that the model itself gives a token: of its logits
    [vocabulary] as they are, before any grammar, bias, penalty or temperature. So does OpenAI's
    API, and vLLM's by default."""
    import numpy as np

    wide = logits.astype(np.float64)
    largest = wide.max()
    return float(wide[token] - largest - np.log(np.exp(wide - largest).sum()))
