"""Which token comes next: how logits become a choice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lepton_edge.errors import InferenceError, InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. The defaults take the most likely one each time.

    Applied in this order: the bias, the penalties, the temperature, top-k, top-p, min-p; of those
    that transformers has, in its order. Raises `InputError` for a value out of range.
    """

    temperature: float = 0.0
    """Logits are divided by it: below 1 the likely tokens become likelier. 0 takes the most likely
    one, whatever top-k and top-p say."""
    top_k: int = 0
    """Only the k most likely tokens; 0 for all."""
    top_p: float = 1.0
    """Only the most likely tokens whose probabilities sum to p (nucleus sampling, Holtzman et al.
    2020); 1 for all."""
    min_p: float = 0.0
    """Only tokens at least p times as likely as the most likely one (Nguyen et al. 2024); 0 for
    all."""
    repetition_penalty: float = 1.0
    """Logits of tokens that the prompt or the answer has are divided by it where positive, and
    multiplied where negative (Keskar et al. 2019); 1 for no penalty."""
    presence_penalty: float = 0.0
    """Taken from the logits of tokens that the answer has, once; the prompt does not count."""
    frequency_penalty: float = 0.0
    """Taken from the logits of tokens that the answer has, once for each time."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these tokens, by id; minus infinity is not allowed, -100 is enough."""
    seed: int | None = None
    """The same seed gives the same text again; None draws one."""

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, "a number from 0", lowest=0)
        _check("top_k", self.top_k, "a whole number from 0", lowest=0, whole=True)
        _check("top_p", self.top_p, "a number above 0, up to 1", above=0, highest=1)
        _check("min_p", self.min_p, "a number from 0 to 1", lowest=0, highest=1)
        for name in ("presence_penalty", "frequency_penalty"):
            _check(name, getattr(self, name), "a number from -2 to 2", lowest=-2, highest=2)
        if not isinstance(self.logit_bias, Mapping):
            raise InputError(f"logit_bias is {self.logit_bias!r}: it maps token ids to numbers")
        for token, bias in self.logit_bias.items():
            _check("a token of logit_bias", token, "a whole number from 0", lowest=0, whole=True)
            _check(f"logit_bias of token {token}", bias, "a number")
        _check("repetition_penalty", self.repetition_penalty, "a number above 0", above=0)
        if self.seed is not None:
            _check("seed", self.seed, "a whole number from 0", lowest=0, whole=True)


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
    """Chooses the next token of each row.

    Each row has random numbers of its own, by the seed and its place: what the other rows of a
    batch hold, and when they end, changes nothing for it.
    """

    def __init__(self, sampling: Sampling, rows: int) -> None:
        import numpy as np

        self._sampling = sampling
        seed = np.random.SeedSequence(sampling.seed)
        self._random = [np.random.default_rng(each) for each in seed.spawn(rows)]

    def choose(self, row: int, logits: NDArray[np.float32], tokens: Sequence[int]) -> int:
        """The next token of a row, from its logits [vocabulary] and the tokens that it has so far,
        the prompt's among them. Raises `InferenceError` where the logits are not numbers."""
        import numpy as np

        if not np.isfinite(logits.max()):  # NaN if one of them is
            raise InferenceError(
                f"the model's logits for row {row} are not numbers: NaN or infinite"
            )
        scores = processed(logits, tokens, self._sampling)
        if self._sampling.temperature == 0:
            return int(scores.argmax())
        sums = probabilities(scores).cumsum()
        drawn = self._random[row].random() * sums[-1]
        return int(np.searchsorted(sums, drawn, side="right"))


def processed(
    logits: NDArray[np.float32], tokens: Sequence[int], sampling: Sampling
) -> NDArray[np.float32]:
    """Logits [vocabulary] as a token is chosen by them; minus infinity for one that is not."""
    import numpy as np

    scores = logits.astype(np.float32)  # a copy
    if sampling.repetition_penalty != 1:
        seen = np.unique(np.asarray(tokens, np.int64))
        penalty = np.float32(sampling.repetition_penalty)
        scores[seen] = np.where(scores[seen] < 0, scores[seen] * penalty, scores[seen] / penalty)
    if sampling.temperature == 0:
        return scores
    scores /= np.float32(sampling.temperature)
    if 0 < sampling.top_k < scores.size:
        least = np.partition(scores, -sampling.top_k)[-sampling.top_k]
        scores[scores < least] = -np.inf
    if sampling.top_p < 1:
        kept = np.flatnonzero(scores > -np.inf)
        ascending = kept[np.argsort(scores[kept], kind="stable")]
        sums = probabilities(scores[ascending]).cumsum()
        ascending = ascending[:-1]  # the most likely one stays in any case
        scores[ascending[sums[:-1] <= 1 - sampling.top_p]] = -np.inf
    return scores


def probabilities(scores: NDArray[np.float32]) -> NDArray[Any]:
    """Softmax, float64."""
    import numpy as np

    largest = scores.max()
    found: NDArray[Any] = np.exp((scores - largest).astype(np.float64))
    found /= found.sum()
    return found
