"""The gate of decoders: what is measured, however many rows are computed at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from lepton_edge.builder.quality import generation
from lepton_edge.builder.quality.generation import Reference, Sample, measure
from lepton_edge.builder.quality.logits import losses_of
from lepton_edge.errors import ParityError
from lepton_edge.recipe import Quality
from lepton_edge.testing_decoder import FakeStepper, vocabulary_size

VOCABULARY = vocabulary_size()
ROWS, LENGTH, CONTINUED = 4, 10, 8
WINDOWS = np.random.default_rng(1).integers(0, VOCABULARY, (ROWS, LENGTH))
SAMPLE = Sample(WINDOWS, None)


class Watched(FakeStepper):
    """Keeps how many rows were begun at a time."""

    def __init__(self, max_batch: int) -> None:
        super().__init__(3, VOCABULARY, 64, max_batch)
        self.rows: list[int] = []

    def start(self, batch: int) -> None:
        assert batch <= self.max_batch
        self.rows.append(batch)
        super().start(batch)


def logits_of(text: Sequence[int]) -> np.ndarray:
    """After each token of a text, [length, vocabulary], a row at a time."""
    stepper = FakeStepper(3, VOCABULARY, 64)
    stepper.start(1)
    ids = np.array([text], np.int64)
    mask = np.ones_like(ids)
    return np.stack(
        [
            stepper.step(ids[:, at : at + 1], mask[:, : at + 1], np.array([[at]]))[0]
            for at in range(len(text))
        ]
    )


@pytest.fixture(scope="module")
def reference() -> Reference:
    """Of the same model, alone with each row."""
    logits = [logits_of(row.tolist()) for row in WINDOWS]
    greedy = []
    for row in WINDOWS:
        text = row.tolist()
        for _ in range(CONTINUED):
            text.append(int(logits_of(text)[-1].argmax()))
        greedy.append(text[LENGTH:])
    return Reference(
        np.stack(
            [losses_of(each[:-1], row[1:]) for each, row in zip(logits, WINDOWS, strict=True)]
        ),
        np.stack([each[:-1] for each in logits]),
        logits[0][-1],
        greedy,
    )


@pytest.mark.parametrize(("max_batch", "rows"), [(1, [1] * 4), (3, [3, 1]), (4, [4]), (9, [4])])
def test_the_same_is_measured_with_any_batch(
    reference: Reference, max_batch: int, rows: list[int]
) -> None:
    stepper = Watched(max_batch)
    found = measure(stepper, SAMPLE, reference, Quality(), "fp32", 0)
    assert stepper.rows == [*rows, 1, *rows]
    assert found.quality.perplexity == pytest.approx(found.quality.original_perplexity)
    assert found.quality.equal_tokens == 1.0
    assert found.quality.greedy_tokens == ROWS * CONTINUED
    assert found.parity is not None
    assert found.parity.max_error == 0


@pytest.mark.parametrize("max_batch", [1, 4])
def test_a_row_that_differs_is_found_in_any_batch(reference: Reference, max_batch: int) -> None:
    other = [*reference.greedy[:3], [(token + 1) % VOCABULARY for token in reference.greedy[3]]]
    changed = Reference(reference.losses, reference.logits + 1.0, reference.last, other)
    found = measure(Watched(max_batch), SAMPLE, changed, Quality(), "fp32", 0)
    assert found.quality.equal_tokens == pytest.approx(3 / 4)
    assert found.parity is not None
    assert found.parity.max_error == pytest.approx(1.0)


def test_logits_that_are_no_numbers_are_no_result(reference: Reference) -> None:
    class Broken(FakeStepper):
        def step(self, *feeds: np.ndarray) -> np.ndarray:
            return super().step(*feeds) * np.nan

    with pytest.raises(ParityError):
        generation.measure(Broken(3, VOCABULARY, 64), SAMPLE, reference, Quality(), "fp32", 0)
