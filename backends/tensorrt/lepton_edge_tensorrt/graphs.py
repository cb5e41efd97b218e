"""CUDA graphs of a session: which shapes get one, and how long it is kept."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lepton_edge_tensorrt.cuda import CudaGraph
    from lepton_edge_tensorrt.engine import Execution, Shapes

# Each has an execution context of its own, with some memory.
_MOST = 8
# After so many calls, what came before them counts half.
_WINDOW = 512

Key = tuple[object, ...]


@dataclass(frozen=True)
class Captured:
    """A graph, and the context that it was captured from: NVIDIA leaves undefined what the graph
    computes once that context was given another shape, so it is never given one."""

    graph: CudaGraph
    execution: Execution
    outputs: Shapes

    def close(self) -> None:
        self.graph.close()
        self.execution.close()


class GraphCache:
    """A few graphs, by the shapes that they are for.

    A shape gets one the second time that it comes. Once all places are taken it gets that of the
    least recently used, if it came twice as often lately: many shapes in turn would otherwise
    capture again and again, which costs more than a graph saves.
    """

    def __init__(self) -> None:
        self._graphs: OrderedDict[Key, Captured] = OrderedDict()
        self._counts: dict[Key, int] = {}
        self._calls = 0

    def get(self, key: Key) -> Captured | None:
        """The graph for shapes that come now."""
        self._count(key)
        if key in self._graphs:
            self._graphs.move_to_end(key)
        return self._graphs.get(key)

    def wants(self, key: Key) -> bool:
        """Whether shapes that have no graph should get one."""
        if len(self._graphs) < _MOST:
            return self._counts.get(key, 0) > 1
        oldest = next(iter(self._graphs))
        return self._counts.get(key, 0) >= 2 * max(self._counts.get(oldest, 0), 1)

    def keep(self, key: Key, captured: Captured) -> None:
        while len(self._graphs) >= _MOST:
            self._graphs.popitem(last=False)[1].close()
        self._graphs[key] = captured

    def clear(self) -> None:
        """Close all of them: what they work on is about to move."""
        while self._graphs:
            self._graphs.popitem()[1].close()

    def _count(self, key: Key) -> None:
        self._counts[key] = self._counts.get(key, 0) + 1
        self._calls += 1
        if self._calls == _WINDOW:
            self._calls = 0
            self._counts = {each: n // 2 for each, n in self._counts.items() if n > 1}
