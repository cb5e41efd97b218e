"""Generating: a decoder's step, with its cache on the GPU."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from lepton_edge.errors import BackendError, InferenceError
from lepton_edge.generation.tensors import LOGITS, POSITION_IDS, past_names, present_names
from lepton_edge_tensorrt.cuda import Buffer, Stream, failures
from lepton_edge_tensorrt.engine import Execution, Shapes, elements

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lepton_edge.backend import Compiled, Setting
    from lepton_edge_tensorrt.engine import Engine

# Tokens that the cache has room for at first.
_FIRST = 64
INPUT_IDS, ATTENTION_MASK = "input_ids", "attention_mask"
_TOKENS = (INPUT_IDS, ATTENTION_MASK, POSITION_IDS)


class TensorRTStepper:
    """A `lepton_edge.generation.loop.Stepper`.

    The cache is two sets of buffers: a step reads one, writes the other with its new tokens
    appended, and then they change places. So it is never copied, not where it grows either: what
    grows is the set that is about to be written.

    It takes over the engine. `free` frees the cache, and `start` makes a new one; `close` ends it
    for good. Safe from many threads, though a text is one thread's.
    """

    def __init__(self, engine: Engine, compiled: Compiled) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._executions: dict[int, Execution] = {}
        self._inputs = compiled.inputs
        self._batch = self._length = 0
        self._cache_tokens = 2**31 - 1
        self._stream: Stream | None = None
        device = engine.device
        self.device = device.gpu.label
        self.details: dict[str, Setting] = {
            "compute": str(compiled.settings.get("compute", "")),
            "flavour": str(engine.flavour),
            "gpu": device.gpu.name,
        }
        self._host = {name: Buffer(device, pinned=True) for name in (*_TOKENS, LOGITS)}
        self._device_side = {name: Buffer(device) for name in (*_TOKENS, LOGITS)}
        self._scratch = Buffer(device)
        try:
            engine.check(compiled)
            layers = _layers(engine)
            self._past, self._present = past_names(layers), present_names(layers)
            self._caches = tuple([Buffer(device) for _ in self._past] for _ in range(2))
            with failures(BackendError, "open a decoder"), device.current():
                self._stream = Stream(device)
        except BaseException:
            engine.release()
            raise

    @property
    def max_length(self) -> int:
        """The most tokens that the cache holds, padding among them: what a step may find there and
        one more, as a longer step that the engine would take is beyond what the model knows."""
        return max(
            min(ranges[self._past[0]].largest[2] + 1, ranges[ATTENTION_MASK].largest[1])
            for ranges in self._engine.profiles
        )

    @property
    def max_batch(self) -> int:
        """The most rows."""
        return max(ranges[INPUT_IDS].largest[0] for ranges in self._engine.profiles)

    @property
    def bytes_per_token(self) -> int:
        """What one token of one row takes in both sets of the cache."""
        largest = self._engine.profiles[0]
        items = {name: self._engine.inputs[name].item for name in self._past}
        return 2 * sum(
            largest[name].largest[1] * largest[name].largest[3] * item
            for name, item in items.items()
        )

    def free_memory(self) -> int:
        """Bytes of the GPU that are left for the cache. Raises `BackendError`."""
        scratch = max(map(self._engine.scratch, range(len(self._engine.profiles))))
        with failures(BackendError, "ask for the GPU's memory"), self._engine.device.current():
            return max(self._engine.device.memory()[0] - scratch, 0)

    def limit_cache(self, tokens: int) -> None:
        """The cache never takes more than so many tokens of all rows together need, as long as they
        are no more."""
        self._cache_tokens = tokens

    def start(self, batch: int) -> None:
        """Begin new texts, this many rows, with an empty cache. Raises `InferenceError`."""
        if not 0 < batch <= self.max_batch:
            raise InferenceError(
                f"cannot generate {batch} texts at once: the engine takes 1 to {self.max_batch}",
                hint="give fewer, or build with backends: {tensorrt: {max_batch: …}} in the recipe",
            )
        with self._lock:
            self._check_open()
            self._batch, self._length = batch, 0

    def step(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        position_ids: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Take new tokens [batch, length] with their positions [batch, length], and give the logits
        of the last of them [batch, vocabulary].

        The mask [batch, total] is of the tokens in the cache and the new ones: 0 for padding. More
        new tokens than the engine takes are given to it in turns. Raises `InferenceError`.
        """
        with self._lock:
            self._check_open()
            self._check(input_ids, attention_mask, position_ids)
            new = input_ids.shape[1]
            most = max(ranges[INPUT_IDS].largest[1] for ranges in self._engine.profiles)
            with failures(InferenceError, "generate"), self._engine.device.current():
                for start in range(0, new, most):
                    end = min(start + most, new)
                    feeds = {
                        INPUT_IDS: input_ids[:, start:end],
                        ATTENTION_MASK: attention_mask[:, : self._length + end - start],
                        POSITION_IDS: position_ids[:, start:end],
                    }
                    logits = self._run(feeds)
        return logits

    def free(self) -> None:
        """Free the cache; `start` makes a new one. Harmless where there is none."""
        with self._lock:
            if self._stream is not None:
                self._batch = 0
                with self._engine.device.current(closing=True):
                    self._free_cache()

    def close(self) -> None:
        """Free all that it has on the GPU, and the engine if no other uses it. Closing twice is
        harmless."""
        with self._lock:
            if self._stream is None:
                return
            with self._engine.device.current(closing=True):
                self._free_cache()
                for execution in self._executions.values():
                    execution.close()
                self._executions.clear()
                for buffer in (*self._host.values(), *self._device_side.values(), self._scratch):
                    buffer.close()
                self._stream.close()
            self._stream = None
            self._engine.release()

    def _check_open(self) -> None:
        if self._stream is None:
            raise InferenceError("the decoder is closed", hint="load the bundle again")

    def _check(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> None:
        if not self._batch:
            raise InferenceError("the decoder has no text: it was not started, or was freed")
        new = ids.shape[1]
        total = self._length + new
        wanted = ((self._batch, new), (self._batch, total), (self._batch, new))
        found = (ids.shape, mask.shape, positions.shape)
        if new < 1 or found != wanted:
            raise InferenceError(
                f"with {self._length} tokens in its cache a step of {new} takes ids, mask and "
                f"positions of shape {', '.join(str(list(shape)) for shape in wanted)}, and was "
                f"given {', '.join(str(list(shape)) for shape in found)}"
            )
        if total > self.max_length:
            raise InferenceError(
                f"the text has {total} tokens, and the engine takes up to {self.max_length}",
                hint="ask for fewer tokens, or build with a larger max_length",
            )

    def _run(self, feeds: dict[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """One launch, and the caches change places. Raises `CudaError`."""
        assert self._stream is not None
        past, present = self._caches
        shapes = self._shapes(feeds)
        total = shapes[ATTENTION_MASK][1]
        try:
            execution = self._execution(shapes)
            for name, array in feeds.items():
                port = self._engine.inputs[name]
                self._reserve(name, array.size * port.item)
                self._host[name].array(port.dtype, array.shape)[...] = array
            self._grow_cache(past, shapes[INPUT_IDS][0], self._length)
            self._grow_cache(present, shapes[INPUT_IDS][0], total)
            outputs = execution.reshape(shapes)
            size = elements(outputs[LOGITS]) * self._engine.outputs[LOGITS].item
            self._reserve(LOGITS, size)
            execution.bind(
                {name: buffer.address for name, buffer in self._device_side.items()}
                | {name: buffer.address for name, buffer in zip(self._past, past, strict=True)}
                | {
                    name: buffer.address
                    for name, buffer in zip(self._present, present, strict=True)
                }
            )
            for name, array in feeds.items():
                down = array.size * self._engine.inputs[name].item
                self._stream.to_device(self._device_side[name], self._host[name], down)
            execution.launch()
            self._stream.to_host(self._host[LOGITS], self._device_side[LOGITS], size)
            self._stream.wait()
        except BaseException:
            self._stream.settle()
            self._batch = 0  # nobody knows what is in the cache: a new text starts again
            raise
        self._caches, self._length = (present, past), total
        dtype = self._engine.outputs[LOGITS].dtype
        logits = self._host[LOGITS].array(dtype, outputs[LOGITS])
        last: NDArray[np.float32] = logits if logits.ndim == 2 else logits[:, -1]
        return last.astype("float32")

    def _shapes(self, feeds: dict[str, NDArray[np.int64]]) -> Shapes:
        shapes: Shapes = {name: array.shape for name, array in feeds.items()}
        for name in self._past:
            _, heads, _, size = self._engine.profiles[0][name].largest
            shapes[name] = (self._batch, heads, self._length, size)
        return shapes

    def _execution(self, shapes: Shapes) -> Execution:
        assert self._stream is not None
        fitting = self._engine.profiles_for(shapes)
        if not fitting:
            raise InferenceError(f"cannot generate: {self._engine.misfit(shapes, self._inputs)}")
        profile = fitting[0]
        self._scratch.reserve(self._engine.scratch(profile))
        if profile not in self._executions:
            # Each step's shapes are new: the cache is longer by its tokens.
            self._executions[profile] = Execution(
                self._engine, profile, self._stream, self._scratch, shapes_repeat=False
            )
        return self._executions[profile]

    def _reserve(self, name: str, size: int) -> None:
        """Room on both sides. The mask is longer each step: it gets room for twice as much."""
        for side in (self._host, self._device_side):
            if side[name].size < size:
                side[name].reserve(size if name == LOGITS else 2 * size)

    def _grow_cache(self, caches: list[Buffer], batch: int, length: int) -> None:
        """Room for so many tokens, and for twice as many as there was room for, up to the most that
        the engine takes and the cache may have. What is in the buffers is lost where they grow."""
        room = _FIRST
        while room < length:
            room *= 2
        room = min(room, self.max_length, max(length, self._cache_tokens // batch))
        for name, cache in zip(self._past, caches, strict=True):
            _, heads, _, size = self._engine.profiles[0][name].largest
            each = batch * heads * size * self._engine.inputs[name].item
            if not cache.address or cache.size < each * length:
                cache.reserve(each * room)

    def _free_cache(self) -> None:
        for caches in self._caches:
            for cache in caches:
                cache.close()


def _layers(engine: Engine) -> int:
    """Raises `BackendError` for an engine that is no decoder's."""
    layers = (len(engine.inputs) - len(_TOKENS)) // 2
    inputs = {*_TOKENS, *past_names(layers)}
    outputs = {LOGITS, *present_names(layers)}
    if layers < 1 or set(engine.inputs) != inputs or set(engine.outputs) != outputs:
        raise BackendError(
            f"the model is not a decoder with a cache: its inputs are {', '.join(engine.inputs)}",
            hint="generating text needs a model that was built for it",
        )
    for past, present in zip(past_names(layers), present_names(layers), strict=True):
        if engine.inputs[past].dtype != engine.outputs[present].dtype:
            raise BackendError(
                f"the engine takes {past} as {engine.inputs[past].dtype} and gives {present} as "
                f"{engine.outputs[present].dtype}",
                hint="build the bundle again",
            )
    return layers
