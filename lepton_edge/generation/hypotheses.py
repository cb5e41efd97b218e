"""What a beam search keeps of each text: the beginnings that go on, and the answers that ended.

The search is transformers': each step takes the best continuations of all beams of a text, and an
answer that ended is among the best as long as nothing better ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_edge.generation.decoding import Decoding
from lepton_edge.generation.request import FinishReason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Scores = NDArray[np.float32]
    Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Hypothesis:
    """An answer that a beam search found."""

    tokens: tuple[int, ...]
    """The one that ends it among them, if one did."""
    score: float
    """The sum of its tokens' log-probabilities over its length to the power of the penalty."""
    finish_reason: FinishReason


class Beams:
    """Of each text, the beams that go on and the answers that ended, the best of both first.

    ``tokens`` int64 [texts, beams, length] are those of the beams, the start token first, and
    ``scores`` float32 [texts, beams] the sums of their log-probabilities; minus infinity for a beam
    that cannot be: at first, all but one. ``ended`` and ``ended_scores`` are the answers', padded,
    and under the length penalty; minus infinity for none.
    """

    def __init__(self, texts: int, decoding: Decoding) -> None:
        import numpy as np

        beams = decoding.num_beams
        self._decoding = decoding
        self.tokens: Tokens = np.full((texts, beams, 1), decoding.decoder_start_token_id, np.int64)
        self.scores: Scores = np.full((texts, beams), -np.inf, np.float32)
        self.scores[:, 0] = 0
        self.ended = self.tokens
        self.lengths = np.zeros((texts, beams), np.int64)
        self.ended_scores: Scores = np.full((texts, beams), -np.inf, np.float32)

    @property
    def generated(self) -> int:
        """How many tokens each beam has, beside the start token."""
        return int(self.tokens.shape[2]) - 1

    def advance(self, log_probs: Scores) -> NDArray[np.intp]:
        """Add a token to each beam, given those of the next [texts * beams, vocabulary]: the best
        beams of a text go on, and what ends is an answer.

        Gives the row that each beam was in before [texts, beams].
        """
        import numpy as np

        texts, beams = self.scores.shape
        vocabulary = log_probs.shape[1]
        ends = self._decoding.eos_token_ids
        log_probs += self.scores.reshape(-1, 1)
        # As many as that: should every stop token be among a beam's best, the beams still go on.
        best, scores = _best(log_probs.reshape(texts, -1), max(2, 1 + len(ends)) * beams)
        parents, last = best // vocabulary, best % vocabulary
        tokens = np.concatenate([_chosen(self.tokens, parents), last[:, :, None]], axis=2)
        at_end = self.generated + 1 == self._decoding.max_new_tokens
        stops = np.isin(last, ends) | at_end
        self._add(tokens[:, :beams], np.where(stops[:, :beams], scores[:, :beams], -np.inf))
        places, self.scores = _best(np.where(stops, np.float32(-np.inf), scores), beams)
        self.tokens = _chosen(tokens, places)
        rows: NDArray[np.intp] = np.take_along_axis(parents, places, 1)
        rows += beams * np.arange(texts)[:, None]
        return rows

    def _add(self, tokens: Tokens, scores: Scores) -> None:
        """Answers that ended with this step; those that are worse than others are forgotten."""
        import numpy as np

        length = tokens.shape[2] - 1
        scores = scores / length**self._decoding.length_penalty
        padded = np.pad(self.ended, ((0, 0), (0, 0), (0, 1)))
        lengths = np.concatenate([self.lengths, np.full(scores.shape, length)], axis=1)
        places, self.ended_scores = _best(
            np.concatenate([self.ended_scores, scores], axis=1), self.scores.shape[1]
        )
        self.ended = _chosen(np.concatenate([padded, tokens], axis=1), places)
        self.lengths = np.take_along_axis(lengths, places, 1)

    def done(self) -> NDArray[np.bool_]:
        """Of each text [texts], whether its search is over."""
        import numpy as np

        decoding = self._decoding
        if self.generated == decoding.max_new_tokens:
            return np.ones(len(self.scores), np.bool_)
        full: NDArray[np.bool_] = np.all(self.ended_scores > -np.inf, axis=1)
        if decoding.early_stopping is True:
            return full
        length = self.generated
        if decoding.early_stopping == "never" and decoding.length_penalty > 0:
            length = decoding.max_new_tokens
        possible = self.scores[:, 0] / length**decoding.length_penalty
        full &= possible <= self.ended_scores.min(axis=1)
        return full

    def hypotheses(self, text: int) -> list[Hypothesis]:
        """The answers to a text; none where every token was forbidden."""
        found = []
        for tokens, length, score in zip(
            self.ended[text], self.lengths[text], self.ended_scores[text], strict=True
        ):
            if score > -float("inf"):
                written = tuple(tokens[1 : length + 1].tolist())
                stopped = written[-1] in self._decoding.eos_token_ids
                found.append(Hypothesis(written, float(score), "stop" if stopped else "length"))
        return found

    def keep(self, texts: NDArray[np.intp]) -> None:
        """Go on with these texts alone."""
        self.tokens, self.scores = self.tokens[texts], self.scores[texts]
        self.ended, self.lengths = self.ended[texts], self.lengths[texts]
        self.ended_scores = self.ended_scores[texts]


def _best(scores: Scores, count: int) -> tuple[NDArray[np.intp], Scores]:
    """The places of each row's largest scores [rows, count], the best first, and those scores."""
    import numpy as np

    count = min(count, scores.shape[1])
    places = np.argpartition(scores, -count, axis=1)[:, -count:]
    places.sort(axis=1)  # of equal scores, the first
    order = np.argsort(-np.take_along_axis(scores, places, 1), axis=1, kind="stable")
    places = np.take_along_axis(places, order, 1)
    return places, np.take_along_axis(scores, places, 1)


def _chosen(tokens: Tokens, places: NDArray[np.intp]) -> Tokens:
    """Of each text [texts, from, length], these [texts, places]."""
    import numpy as np

    found: Tokens = np.take_along_axis(tokens, places[:, :, None], 1)
    return found
