"""The parity gate: does the compiled model answer like the original?"""

from __future__ import annotations

from collections.abc import Sequence
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
    from lepton_edge.runtime.text import TextEncoder
    from lepton_edge.tasks.base import Task

_ROWS = 8

_Outputs = Any  # float32 [texts, size]


def measure(
    original: Original,
    session: Session,
    encoder: TextEncoder,
    task: Task[Any],
    texts: Sequence[str],
) -> Parity:
    """Compare both on the texts.

    The original sees each text alone and the artifact sees them in padded batches, so that a
    padding token which leaks into an answer shows as an error.
    """
    expected = _expected(original, session, encoder, texts)
    found = _found(session, encoder, task, texts)
    if not np.isfinite(expected).all():
        raise ParityError("the original model's own output is not a number", hint=_DAMAGED)
    if not np.isfinite(found).all():
        raise ParityError("the compiled model's output is not a number", hint=_PRECISE)
    error = np.abs(found - expected)
    cosine = _cosine(found, expected)
    labels = task.labels_of(found), task.labels_of(expected)
    equal = None
    if labels[0] is not None and labels[1] is not None:
        equal = float((labels[0] == labels[1]).all(axis=1).mean())
    return Parity(
        texts=len(texts),
        max_error=float(error.max()),
        mean_error=float(error.mean()),
        min_cosine=float(cosine.min()),
        mean_cosine=float(cosine.mean()),
        equal_labels=equal,
        compute=str(session.details.get("compute", "")),
    )


def check(parity: Parity, limits: Limits, precision: Precision, target: str) -> None:
    """Raise `ParityError` with every figure that is beyond its limit."""
    exact = precision == "fp32"
    cosine = 0.9999 if exact else 0.99
    lowest = cosine if exact or parity.equal_labels is None else None
    at_most = {"max_error": limits.max_error, "mean_error": limits.mean_error}
    at_least = {
        "min_cosine": _either(limits.min_cosine, lowest),
        "mean_cosine": _either(limits.mean_cosine, cosine),
        "equal_labels": _either(limits.equal_labels, 1.0 if exact else 0.95),
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


_PRECISE = "build with precision: fp32"
_DAMAGED = "its weights are damaged, or are not this architecture's: fetch them again"


def _expected(
    original: Original, session: Session, encoder: TextEncoder, texts: Sequence[str]
) -> _Outputs:
    encodings = encoder.encode(texts)
    rows = [
        original.run(encoder.feeds(encodings, Batch((i,), len(encoding)), session.inputs))
        for i, encoding in enumerate(encodings)
    ]
    return np.concatenate(rows)


def _found(
    session: Session, encoder: TextEncoder, task: Task[Any], texts: Sequence[str]
) -> _Outputs:
    encodings = encoder.encode(texts)
    rows = _ROWS if takes_padding(session.inputs) else 1
    outputs = []
    for start in range(0, len(encodings), rows):
        numbers = tuple(range(start, min(start + rows, len(encodings))))
        batch = Batch(numbers, max(len(encodings[i]) for i in numbers))
        feeds = encoder.feeds(encodings, batch, session.inputs)
        outputs.append(session.infer(feeds)[task.output])
    return np.concatenate(outputs)


def _cosine(a: _Outputs, b: _Outputs) -> NDArray[np.float64]:
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    products = (a * b).sum(axis=1)
    # Two outputs that are all zero are equal; one that is zero beside one that is not differs.
    both_zero = (np.linalg.norm(a, axis=1) == 0) & (np.linalg.norm(b, axis=1) == 0)
    cosine: NDArray[np.float64] = np.where(
        both_zero, 1.0, products / np.where(norms == 0, 1.0, norms)
    )
    return np.minimum(cosine, 1.0)


def _round(value: float) -> float:
    """Three significant digits of the figure, or of its distance to 1: what can be relied on, and
    the same from one build to the next."""
    if 0.5 < value < 1:
        return 1 - float(f"{1 - value:.3g}")
    return float(f"{value:.3g}")
