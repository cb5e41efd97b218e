"""How well a compiled decoder predicts text and continues it, beside the original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lepton_edge.builder.quality.logits import (
    Difference,
    losses_of,
    max_ratio,
    min_equal,
    perplexity,
    sound,
)
from lepton_edge.builder.quality.rows import read_data
from lepton_edge.builder.sentences import PROSE
from lepton_edge.bundle.manifest import GenerationQuality, Parity
from lepton_edge.errors import InputError, QualityError
from lepton_edge.generation.loop import generate
from lepton_edge.generation.sampling import Sampling

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lepton_edge.builder.causal_lm import CausalLM
    from lepton_edge.generation.loop import Stepper
    from lepton_edge.recipe import Quality
    from lepton_edge.runtime.text import TextEncoder

# Windows of text that are predicted: few rows, as every backend's cache takes them at one time.
_ROWS, _LENGTH = 4, 128
_PROMPT, _CONTINUED = 16, 64
# Logits of the original that are kept to compare with; over a large vocabulary each has a megabyte.
_KEPT_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Sample:
    """Text in tokens: ``windows`` int64 [rows, length]; ``data`` is the file's name."""

    windows: NDArray[np.int64]
    data: str | None

    @property
    def prompts(self) -> list[list[int]]:
        """What is continued greedily."""
        return [row.tolist() for row in self.windows[:, : min(_PROMPT, self.windows.shape[1])]]


@dataclass(frozen=True)
class Reference:
    """The original's predictions: ``losses`` float64 [rows, length - 1], negative log-likelihoods;
    ``logits`` float32 [rows, kept, vocabulary] of the first positions; ``last`` float32
    [vocabulary] of the last one of the first row; ``greedy`` [rows][tokens]."""

    losses: NDArray[np.float64]
    logits: NDArray[np.float32]
    last: NDArray[np.float32]
    greedy: list[list[int]]


@dataclass(frozen=True)
class Measured:
    """What was found, for the manifest."""

    parity: Parity | None
    """None without an original."""
    quality: GenerationQuality


def read_sample(encoder: TextEncoder, quality: Quality, texts: Sequence[str], room: int) -> Sample:
    """The recipe's text in windows; without one, ``texts``, and without those the built-in prose.

    ``room`` is the most tokens of one text. Raises `InputError` naming file and line.
    """
    if quality.data is not None:
        file = Path(quality.data)
        rows = read_data(file, ("text",), quality.columns, quality.samples)
        texts = [str(row["text"]) for _, row in rows]
    texts = texts or PROSE
    (head,) = encoder.encode([texts[0]])
    pieces = encoder.pieces(texts, lambda index: f"text {index + 1}")
    start = head.ids[: len(head.ids) - len(pieces[0])] if head.ids != pieces[0] else []
    stream = [token for piece in pieces for token in piece]
    length = min(_LENGTH, max(room // 2, 2), len(stream) + len(start))
    each = length - len(start)
    rows_found = min(_ROWS, max(len(stream) // max(each, 1), 1))
    if length < 2 or each < 1:
        raise InputError(
            "there is too little text to measure the model on: "
            f"{len(stream)} tokens, of which a window has {length}",
            hint="name a longer one in the recipe: quality: {data: texts.jsonl}",
        )
    windows = [[*start, *stream[row * each : (row + 1) * each]] for row in range(rows_found)]
    return Sample(np.array(windows, np.int64), Path(quality.data).name if quality.data else None)


def refer(original: CausalLM, sample: Sample, room: int) -> Reference:
    """Run the original. ``room`` is the most tokens of one text."""
    windows = sample.windows
    losses, kept = [], []
    last: NDArray[np.float32] | None = None
    for row in windows:
        feeds = {"input_ids": row[None], "attention_mask": np.ones_like(row[None])}
        logits = original.run(feeds)["logits"][0]
        if not np.isfinite(logits).all():
            raise QualityError(
                "the original's own answers are not numbers: NaN or infinite",
                hint="its weights may be damaged, or do not fit its 16-bit format",
            )
        losses.append(losses_of(logits[:-1], row[1:]))
        count = max(_KEPT_BYTES // (len(windows) * logits.shape[1] * 4), 1)
        kept.append(logits[: min(count, len(row) - 1)].copy())
        last = logits[-1].copy() if last is None else last
    assert last is not None
    continued = min(_CONTINUED, room - len(sample.prompts[0]))
    return Reference(
        np.stack(losses),
        np.stack(kept),
        last,
        original.greedy(sample.prompts, continued),
    )


def measure(
    stepper: Stepper,
    sample: Sample,
    reference: Reference | None,
    limits: Quality,
    precision: str,
    pad_id: int,
) -> Measured:
    """Run the compiled model, step by step as it will generate, and compare it with the original
    where there is one. Raises `ParityError` where its logits are not numbers, or all zero."""
    difference = _Difference(reference)
    losses = _predicted(stepper, sample, difference)
    return Measured(
        difference.parity(len(sample.windows), stepper.details) if reference else None,
        GenerationQuality(
            tokens=losses.size,
            data=sample.data,
            perplexity=perplexity(losses),
            original_perplexity=perplexity(reference.losses) if reference else None,
            max_perplexity_ratio=max_ratio(limits.max_perplexity_ratio, precision),
            equal_tokens=_continued(stepper, sample, reference, pad_id) if reference else None,
            greedy_tokens=sum(map(len, reference.greedy)) if reference else 0,
            min_equal_tokens=min_equal(limits.min_equal_tokens, precision),
        ),
    )


def check(found: GenerationQuality, precision: str, target: str) -> None:
    """Raise `QualityError` where the limits are passed. Without an original there are none."""
    if found.original_perplexity is None or found.equal_tokens is None:
        return
    ratio = found.perplexity / found.original_perplexity
    faults = []
    if not ratio <= found.max_perplexity_ratio:  # NaN is no pass
        faults.append(
            f"its perplexity is {found.perplexity:.4g}, {ratio:.3f} times the original's "
            f"{found.original_perplexity:.4g}; {found.max_perplexity_ratio:g} times are allowed"
        )
    if found.equal_tokens < found.min_equal_tokens:
        faults.append(
            f"{found.equal_tokens:.0%} of its greedy tokens are the original's; "
            f"{found.min_equal_tokens:.0%} are needed"
        )
    if faults:
        raise QualityError(
            f"the model compiled for {target} ({precision}) lost too much: " + "; ".join(faults),
            hint="build with a higher precision (int8-weights, or auto), measure on text like "
            "yours (quality: {data: texts.jsonl}), or allow more "
            "(quality: {max_perplexity_ratio: …, min_equal_tokens: …})",
        )


def _predicted(stepper: Stepper, sample: Sample, difference: _Difference) -> NDArray[np.float64]:
    """Losses [rows, length - 1] of each token after those before it."""
    rows, length = sample.windows.shape
    losses = np.empty((rows, length - 1))
    for group in _groups(stepper, rows):
        windows = sample.windows[group]
        mask = np.ones_like(windows)
        stepper.start(len(windows))
        for place in range(length - 1):
            step = np.ascontiguousarray(windows[:, place : place + 1])
            seen = np.ascontiguousarray(mask[:, : place + 1])
            logits = sound(stepper.step(step, seen, np.full((len(windows), 1), place)))
            losses[group, place] = losses_of(logits, windows[:, place + 1])
            difference.add_step(group, place, logits)
    # And a whole text in one step, as a prompt is: one, as some compute the logits of all of it.
    stepper.start(1)
    whole = sample.windows[:1]
    logits = sound(stepper.step(whole, np.ones_like(whole), np.arange(length)[None]))
    difference.add_last(logits[0])
    return losses


def _groups(stepper: Stepper, rows: int) -> list[slice]:
    """As many rows at a time as it takes."""
    most = min(rows, stepper.max_batch)
    return [slice(start, min(start + most, rows)) for start in range(0, rows, most)]


class _Difference(Difference):
    """Of a decoder's steps, beside those kept of the original."""

    def __init__(self, reference: Reference | None) -> None:
        super().__init__()
        self._reference = reference

    def add_step(self, rows: slice, place: int, found: NDArray[np.float32]) -> None:
        """Logits [rows, vocabulary] after the token at a place; those kept of the original."""
        if self._reference and place < self._reference.logits.shape[1]:
            self.add(found, self._reference.logits[rows, place])

    def add_last(self, found: NDArray[np.float32]) -> None:
        """Logits [vocabulary] after the whole first row."""
        if self._reference:
            self.add(found[None], self._reference.last[None])


def _continued(stepper: Stepper, sample: Sample, reference: Reference, pad_id: int) -> float:
    """Share of greedy tokens that are the original's."""
    tokens = len(reference.greedy[0])
    if not tokens:
        return 1.0
    found: list[list[int | None]] = [[] for _ in sample.prompts]
    for group in _groups(stepper, len(found)):
        prompts = sample.prompts[group]
        for step in generate(stepper, prompts, Sampling(), tokens, (), pad_id):
            for row, token in zip(found[group], step.tokens, strict=True):
                row.append(token)
    pairs = [
        (a, b)
        for row, wanted in zip(found, reference.greedy, strict=True)
        for a, b in zip(row, wanted, strict=True)
    ]
    return sum(int(a == b) for a, b in pairs) / len(pairs)
