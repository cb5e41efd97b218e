"""Accuracy under control: which roundings of activations int8 has to do without."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lepton_edge.backend import Quantization, Session, Tensors

    Open = Callable[[Collection[str]], Session]
    """Opens the quantized model with those roundings freed."""

_FEEDS = 100  # calibration inputs that roundings are ranked on


def roundings_to_free(
    roundings: Sequence[str],
    quantization: Quantization,
    original: Callable[[], Session],
    freed: Open,
    scored: Open,
    say: Callable[[str], None],
) -> tuple[str, ...]:
    """As few of the roundings as it takes for the score to be reached without them; all of them
    where it is not.

    They are ranked by how much nearer the outputs come to the unquantized model's when theirs alone
    are not rounded, and freed in that order: 1, 2, 4, 8 … until the score is reached, then as few
    as a bisection finds. ``freed`` opens models to rank on and ``scored`` those to score, which is
    the same unless a backend has a better model for all of them.
    """
    assert quantization.score is not None
    say(f"ranking {len(roundings)} operations by the error that they make")
    ranked = _ranked(roundings, quantization.feeds, original, freed)

    def reached(count: int) -> bool:
        assert quantization.score is not None
        say(f"scoring with {count} of {len(ranked)} operations in higher precision")
        with scored(ranked[:count]) as session:
            return quantization.score(session, None) >= quantization.at_least

    return tuple(ranked[: _fewest(reached, len(ranked))])


def _fewest(reached: Callable[[int], bool], most: int) -> int:
    """A small count that reaches the score, or ``most`` where none does."""
    short, enough = 0, 1
    while not reached(enough):
        if enough == most:
            return most
        short, enough = enough, min(enough * 2, most)
    while enough - short > 1:
        middle = (short + enough) // 2
        short, enough = (short, middle) if reached(middle) else (middle, enough)
    return enough


def _ranked(
    roundings: Sequence[str],
    feeds: Sequence[Tensors],
    original: Callable[[], Session],
    freed: Open,
) -> list[str]:
    """The roundings, that which costs most first."""
    feeds = feeds[:: max(len(feeds) // _FEEDS, 1)]
    with original() as session:
        expected = _outputs(session, feeds)

    def error(names: Collection[str]) -> float:
        with freed(names) as session:
            found = _outputs(session, feeds)
        return sum(float(((a - b) ** 2).sum()) for a, b in zip(found, expected, strict=True))

    errors = {name: error([name]) for name in roundings}
    return sorted(roundings, key=lambda name: errors[name])


def _outputs(session: Session, feeds: Sequence[Tensors]) -> list[NDArray[Any]]:
    return [array for each in feeds for array in session.infer(each).values()]
