"""Sessions around others, to see what a model feeds to one and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lepton_edge.backend import Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lepton_edge.backend import Tensors

Outputs = dict[str, Any]


class Observed(Session):
    """Another session; ``seen`` is told the feeds and outputs of each inference, from whichever
    thread made it. Closing it does not close the other."""

    def __init__(self, inner: Session, seen: Callable[[Tensors, Outputs], None]) -> None:
        self.inputs, self.outputs = inner.inputs, inner.outputs
        self.device, self.details = inner.device, inner.details
        self._inner = inner
        self._seen = seen

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        outputs = self._inner.infer(feeds)
        self._seen(feeds, outputs)
        return outputs

    def close(self) -> None:
        """Nothing: the other session belongs to whoever opened it."""
