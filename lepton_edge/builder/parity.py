"""The parity gate: does the compiled model answer like the original?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from lepton_edge.bundle.manifest import Parity
from lepton_edge.errors import ParityError
from lepton_edge.runtime.batching import Batch
from lepton_edge.runtime.text import takes_padding

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lepton_edge.backend import Precision, Session
    from lepton_edge.builder.source import Original
    from lepton_edge.recipe import Parity as Limits
    from lepton_edge.runtime.text import TextEncoder, Tokens
    from lepton_edge.tasks.base import Task

# Sequences in a padded batch, and whose outputs are kept at one time: over a large vocabulary each
# has many megabytes.
_ROWS = 8

_Outputs = dict[str, Any]  # one sequence's outputs, by name, float32


@dataclass(frozen=True)
class Compared:
    """One sequence's outputs, compiled beside original: all of them as one vector."""

    max_error: float
    """Largest absolute difference of an element."""
    mean_error: float
    elements: int
    cosine: float
    equal: tuple[bool, ...] | None
    """Whether its label (each of its tokens' labels) is the same; None without labels."""


def measure(
    original: Original,
    session: Session,
    encoder: TextEncoder,
    task: Task[Any, Any],
    texts: Sequence[str],
) -> Parity:
    """Compare both on the task's examples of the texts. Raises `ParityError` for an output that is
    not a number."""
    inputs, parameters = task.examples(texts)
    groups = task.tokenize(inputs, encoder, parameters, 1)
    sequences = [tokens for group in groups for tokens in group]
    compared = compare(original, session, encoder, task, sequences)
    elements = sum(each.elements for each in compared)
    equal = [flag for each in compared for flag in each.equal or ()]
    return Parity(
        texts=len(texts),
        max_error=max(each.max_error for each in compared),
        mean_error=sum(each.mean_error * each.elements for each in compared) / elements,
        min_cosine=min(each.cosine for each in compared),
        mean_cosine=sum(each.cosine for each in compared) / len(compared),
        equal_labels=sum(equal) / len(equal) if equal else None,
        compute=str(session.details.get("compute", "")),
        through=str(session.details.get("through", "")),
    )


def compare(
    original: Original,
    session: Session,
    encoder: TextEncoder,
    task: Task[Any, Any],
    sequences: Sequence[Tokens],
) -> list[Compared]:
    """Compare both on each sequence.

    The original sees each alone and the artifact sees them in padded batches, so that a padding
    token which leaks into an answer shows as an error. Raises `ParityError` for an output that is
    not a number.
    """
    compared: list[Compared] = []
    numbers: list[tuple[float, float]] = []
    for start in range(0, len(sequences), _ROWS):
        chunk = sequences[start : start + _ROWS]
        expected = _original_outputs(original, session, encoder, chunk)
        found = _compiled_outputs(session, encoder, task, chunk)
        for a, b in zip(found, expected, strict=True):
            compared.append(_compare(task, a, b))
            if compared[-1].elements == 1:
                numbers.append((float(_flat(a)[0]), float(_flat(b)[0])))
    return _together(compared, numbers) if len(numbers) == len(compared) else compared


def _together(compared: list[Compared], numbers: Sequence[tuple[float, float]]) -> list[Compared]:
    """Where an output is one number, such as a ranker's, its cosine says no more than its sign:
    then it is that of all the sequences' numbers, found and expected."""
    found, expected = np.array(numbers, dtype=np.float64).T
    cosine = _cosine(found, expected)
    return [replace(each, cosine=cosine) for each in compared]


def _compare(task: Task[Any, Any], found: _Outputs, expected: _Outputs) -> Compared:
    a, b = _flat(found), _flat(expected)
    if not np.isfinite(b).all():
        raise ParityError("the original model's own output is not a number", hint=_DAMAGED)
    if not np.isfinite(a).all():
        raise ParityError("the compiled model's output is not a number", hint=_PRECISE)
    error = np.abs(a - b)
    left, right = task.labels_of(found), task.labels_of(expected)
    equal = None
    if left is not None and right is not None:
        equal = tuple((left == right).all(axis=1).tolist())
    return Compared(float(error.max()), float(error.mean()), error.size, _cosine(a, b), equal)


def check(
    parity: Parity, limits: Limits, precision: Precision, target: str, *, scored: bool = False
) -> None:
    """Raise `ParityError` with every figure that is beyond its limit.

    ``scored``: the task's own metric judges the model too, and only the recipe's own limits apply
    here, except for fp32.
    """
    cosine, labels = (None, None) if scored and precision != "fp32" else _DEFAULTS[precision]
    lowest = cosine if precision == "fp32" or parity.equal_labels is None else None
    if precision == "int8" and parity.equal_labels is not None:
        cosine = None  # two logits near zero turn far, and say the same
    at_most = {"max_error": limits.max_error, "mean_error": limits.mean_error}
    at_least = {
        "min_cosine": _either(limits.min_cosine, lowest),
        "mean_cosine": _either(limits.mean_cosine, cosine),
        "equal_labels": _either(limits.equal_labels, labels),
    }
    faults = [
        f"{name} is {value:g}, the limit is {limit:g}"
        for bounds, sign in ((at_most, 1), (at_least, -1))
        for name, limit in bounds.items()
        if limit is not None
        and (value := getattr(parity, name)) is not None
        and sign * value > sign * limit
    ]
    if faults:
        raise ParityError(
            f"the model compiled for {target} (precision {precision}) does not answer like the "
            f"original on {parity.texts} texts: {'; '.join(faults)}",
            hint=f"{_PRECISE}; or set other limits under parity:",
        )


def rounded(parity: Parity) -> Parity:
    """The figures for the manifest, after `check` has judged the exact ones."""
    fields = msgspec.structs.asdict(parity)
    figures = {name: _round(value) for name, value in fields.items() if isinstance(value, float)}
    return msgspec.structs.replace(parity, **figures)


def _either(limit: float | None, default: float | None) -> float | None:
    return default if limit is None else limit


# The cosine, mean and smallest, and the share of equal labels.
_DEFAULTS: dict[Precision, tuple[float, float]] = {
    "auto": (0.99, 0.95),
    "fp32": (0.9999, 1.0),
    "fp16": (0.99, 0.95),
    "bf16": (0.99, 0.95),
    "int8": (0.97, 0.9),
    "int8-weights": (0.99, 0.95),
    "int4-weights": (0.97, 0.9),
}
_PRECISE = "build with precision: fp32"
_DAMAGED = "its weights are damaged, or are not this architecture's: fetch them again"


def _original_outputs(
    original: Original, session: Session, encoder: TextEncoder, sequences: Sequence[Tokens]
) -> list[_Outputs]:
    """Of each sequence alone, by the original."""
    return [
        {
            name: output[0]
            for name, output in original.run(
                encoder.feeds(sequences, Batch((i,), len(tokens)), session.inputs)
            ).items()
        }
        for i, tokens in enumerate(sequences)
    ]


def _compiled_outputs(
    session: Session, encoder: TextEncoder, task: Task[Any, Any], sequences: Sequence[Tokens]
) -> list[_Outputs]:
    """Of sequences in padded batches, by the artifact, with the padding cut off."""
    rows = _ROWS if takes_padding(session.inputs) else 1
    outputs: list[_Outputs] = []
    for start in range(0, len(sequences), rows):
        numbers = tuple(range(start, min(start + rows, len(sequences))))
        batch = [sequences[i] for i in numbers]
        feeds = encoder.feeds(sequences, Batch(numbers, max(map(len, batch))), session.inputs)
        found = session.infer(feeds)
        cut = {name: task.without_padding(name, found[name], batch) for name in task.outputs}
        outputs += [{name: cut[name][i] for name in cut} for i in range(len(batch))]
    return outputs


def _flat(outputs: _Outputs) -> NDArray[np.float64]:
    """The outputs as one vector."""
    return np.concatenate([array.reshape(-1).astype(np.float64) for array in outputs.values()])


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Of two vectors. Zero and zero are equal; zero beside anything else differs."""
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norms == 0:
        return float(np.array_equal(a, b))
    return max(-1.0, min(float(a @ b) / norms, 1.0))


def _round(value: float) -> float:
    """Three significant digits of the figure, or of its distance to 1: what can be relied on, and
    the same from one build to the next."""
    if 0.5 < value < 1:
        return 1 - float(f"{1 - value:.3g}")
    return float(f"{value:.3g}")
