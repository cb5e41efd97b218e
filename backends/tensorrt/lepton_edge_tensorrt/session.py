"""Running: a session over an engine."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from lepton_edge.backend import Compiled, Session, Setting, check_feeds
from lepton_edge.errors import BackendError, InferenceError
from lepton_edge.target import MIB
from lepton_edge_tensorrt.cuda import Buffer, CudaError, Stream, failures
from lepton_edge_tensorrt.engine import Execution, Shapes, elements
from lepton_edge_tensorrt.graphs import Captured, GraphCache, Key

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from lepton_edge.backend import Tensors
    from lepton_edge_tensorrt.engine import Engine

# Buffers get room for half as much again, but no more than this.
_ROOM = 4 * MIB


class TensorRTSession(Session):
    """One stream, and one inference at a time: a GPU runs one after another all the same.

    It takes over the engine, and releases it when it is closed.

    A shape that comes a second time is captured as a CUDA graph, copies included, which from then
    on is one launch. TensorRT for RTX captures graphs itself.
    """

    def __init__(self, engine: Engine, compiled: Compiled) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._closed = False
        self._executions: dict[int, Execution] = {}
        self._graphs = GraphCache()
        self._captures = not engine.captures_itself
        self.inputs = compiled.inputs
        self.outputs = compiled.outputs
        self.device = engine.device.gpu.label
        self._settings: dict[str, Setting] = {
            "compute": str(compiled.settings.get("compute", "")),
            "flavour": str(engine.flavour),
            "gpu": engine.device.gpu.name,
            "cuda_graphs": "on",
        }
        self.details = self._settings
        device = engine.device
        ports = [*engine.inputs.values(), *engine.outputs.values()]
        self._items = {port.name: port.item for port in ports}
        self._host = {name: Buffer(device, pinned=True) for name in self._items}
        self._device_side = {name: Buffer(device) for name in self._items}
        self._scratch = Buffer(device)
        try:
            engine.check(compiled)
            with failures(BackendError, "open a session"), device.current():
                self._stream = Stream(device)
        except BaseException:
            self._closed = True
            engine.release()
            raise

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        check_feeds(self.inputs, feeds)
        with self._lock:
            if self._closed:
                raise InferenceError("the session is closed", hint="load the bundle again")
            parts = self._parts(feeds)
            with failures(InferenceError, "run the model"), self._engine.device.current():
                try:
                    found = [self._run(profile, part) for profile, part in parts]
                except BaseException:
                    self._stream.settle()
                    raise
        return found[0] if len(found) == 1 else _joined(found)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            with self._engine.device.current(closing=True):
                self._graphs.clear()
                for execution in self._executions.values():
                    execution.close()
                self._executions.clear()
                for buffer in (*self._host.values(), *self._device_side.values(), self._scratch):
                    buffer.close()
                self._stream.close()
            self._engine.release()

    def _parts(self, feeds: Tensors) -> list[tuple[int, Tensors]]:
        """The feeds and the optimization profile for them; where no profile has so many rows, as
        many at a time as one has: a row's answer does not depend on the others.

        Raises `InferenceError` for a shape that fits none.
        """
        shapes = {name: array.shape for name, array in feeds.items()}
        fitting = self._engine.profiles_for(shapes)
        if fitting:
            return [(fitting[0], feeds)]
        most = self._most_rows(shapes)
        rows = shapes[self.inputs[0].name][0] if most else 0
        if rows <= most:
            raise InferenceError(
                f"cannot run the model: {self._engine.misfit(shapes, self.inputs)}",
                hint="give shorter texts, or build with a larger max_length",
            )
        found: list[tuple[int, Tensors]] = []
        for start in range(0, rows, most):
            found += self._parts(
                {name: array[start : start + most] for name, array in feeds.items()}
            )
        return found

    def _most_rows(self, shapes: Shapes) -> int:
        """The largest batch of a profile that takes everything else about these shapes; 0 where
        there is none, or where not every tensor has its rows first."""
        first = self.inputs[0].shape[:1]
        if any(spec.shape[:1] != first for spec in (*self.inputs, *self.outputs)):
            return 0
        name = self.inputs[0].name
        candidates = self._engine.profiles_for(shapes, free=0)
        return max(
            (self._engine.profiles[index][name].largest[0] for index in candidates), default=0
        )

    def _run(self, profile: int, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """One launch. Raises `CudaError`."""
        for name, array in feeds.items():
            self._reserve(name, array.nbytes)
            self._host[name].array(array.dtype, array.shape)[...] = array
        shapes = {spec.name: feeds[spec.name].shape for spec in self.inputs}
        key = tuple(shapes.values())
        captured = self._graphs.get(key)
        if captured:
            self._stream.launch(captured.graph)
            outputs = captured.outputs
        else:
            outputs = self._run_plainly(profile, key, shapes)
        self._stream.wait()
        return {
            name: self._host[name].array(self._engine.outputs[name].dtype, shape).copy()
            for name, shape in outputs.items()
        }

    def _run_plainly(self, profile: int, key: Key, shapes: Shapes) -> Shapes:
        """And capture a graph of it, for the next time, if the shapes come often."""
        self._grow(self._scratch, self._engine.scratch(profile))
        own = self._own_execution(profile) if self._captures and self._graphs.wants(key) else None
        execution = own or self._shared_execution(profile)
        try:
            outputs = self._prepare(execution, shapes)
            self._launch(execution, shapes, outputs)
            if own:
                self._stream.wait()
        except BaseException:
            if own:
                self._stream.settle()
                own.close()
            raise
        if own:
            # After a launch: in it TensorRT finishes what a new shape changes.
            self._capture(own, key, shapes, outputs)
        return outputs

    def _capture(self, execution: Execution, key: Key, shapes: Shapes, outputs: Shapes) -> None:
        try:
            graph = self._stream.capture(lambda: self._launch(execution, shapes, outputs))
        except CudaError as failure:
            execution.close()
            self._stop_capturing(failure)
        else:
            self._graphs.keep(key, Captured(graph, execution, outputs))

    def _stop_capturing(self, failure: CudaError) -> None:
        """Answers are the same without graphs, so it is no error: the details say why."""
        self._captures = False
        self._graphs.clear()
        self._settings["cuda_graphs"] = f"off: {failure.message}"

    def _own_execution(self, profile: int) -> Execution | None:
        """A context for one graph; None where there can be no more."""
        try:
            return Execution(self._engine, profile, self._stream, self._scratch)
        except CudaError as failure:
            self._stop_capturing(failure)
            return None

    def _shared_execution(self, profile: int) -> Execution:
        if profile not in self._executions:
            self._executions[profile] = Execution(
                self._engine, profile, self._stream, self._scratch
            )
        return self._executions[profile]

    def _prepare(self, execution: Execution, shapes: Shapes) -> Shapes:
        """Tell a context the shapes and addresses; gives the outputs' shapes."""
        outputs = execution.reshape(shapes)
        for name, shape in outputs.items():
            self._reserve(name, elements(shape) * self._items[name])
        execution.bind({name: buffer.address for name, buffer in self._device_side.items()})
        return outputs

    def _launch(self, execution: Execution, shapes: Shapes, outputs: Shapes) -> None:
        """Copies down, the model, and copies up: what a graph is captured of."""
        for name, size in self._sizes(shapes):
            self._stream.to_device(self._device_side[name], self._host[name], size)
        execution.launch()
        for name, size in self._sizes(outputs):
            self._stream.to_host(self._host[name], self._device_side[name], size)

    def _sizes(self, shapes: Shapes) -> Iterator[tuple[str, int]]:
        for name, shape in shapes.items():
            yield name, elements(shape) * self._items[name]

    def _reserve(self, name: str, size: int) -> None:
        """Room for a tensor on both sides."""
        for side in (self._host, self._device_side):
            self._grow(side[name], size, min(size // 2, _ROOM))

    def _grow(self, buffer: Buffer, size: int, room: int = 0) -> None:
        if not buffer.address or size > buffer.size:
            self._graphs.clear()  # they have the addresses of when they were captured
            buffer.reserve(size + room)


def _joined(parts: list[dict[str, NDArray[np.generic]]]) -> dict[str, NDArray[Any]]:
    import numpy as np

    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
