"""What a generator is asked, and what it gives back as it comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Literal

from lepton_edge.generation.sampling import Sampling

if TYPE_CHECKING:
    import asyncio

    from typing_extensions import Self

    from lepton_edge.generation.decoding import Decoding

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Grammar:
    """What an answer must be, from its first character to its last.

    ``source`` is a JSON schema (draft 2020-12) as JSON, or a regular expression.
    """

    kind: Literal["json_schema", "regex"]
    source: str


@dataclass(frozen=True)
class Request:
    """One text to continue, in tokens. What is wrong with it was refused before."""

    prompt: Sequence[int]
    """Token ids, at least one."""
    max_tokens: int
    """The most tokens that the answer may have, from 1."""
    stop_tokens: frozenset[int] = frozenset()
    """Tokens that end the answer; the one that did is part of it."""
    sampling: Sampling = field(default_factory=Sampling)
    logprobs: bool = False
    """Whether the log-probability of each token is wanted."""
    grammar: Grammar | None = None
    adapters: tuple[tuple[str, float], ...] = ()
    """LoRA adapters by the names that the generator was opened with, and how strong each is."""
    decoding: Decoding | None = None
    """For a model that answers a text with another: how the answer is searched, in place of
    `sampling`."""
    rank: int = 0
    """Which of the answers that a search with several beams finds: 0 for the best."""


@dataclass(frozen=True)
class Chunk:
    """Some tokens of an answer."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...] = ()
    """Natural logarithms, one for each token, where the request asked for them."""
    finish_reason: FinishReason | None = None
    """Of the last chunk: a stop token (or the end of the grammar), or as many tokens as asked."""
    time: float = 0.0
    """When it came, by `time.perf_counter`."""
    score: float | None = None
    """Of an answer that a beam search found, which is one chunk: by what it was ranked."""


class TokenStream:
    """An answer as it comes. A generator puts chunks in; one thread or one task takes them out.

    Iterating ends after the chunk that has a finish reason, or after `cancel`; it raises the error
    that ended the answer, if one did. A stream that is closed or left unread is not free: `cancel`
    it, or use it as a context manager.
    """

    def __init__(self, on_cancel: Callable[[TokenStream], None]) -> None:
        self._on_cancel = on_cancel
        # Chunks, and at last an error, or None for an end without one. A queue in C: with the next
        # step under way on every core, a reader that wakes up in Python costs it 2 percent.
        self._items: SimpleQueue[Chunk | Exception | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._ended = False  # nothing comes any more
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    @property
    def ended(self) -> bool:
        """Whether the generator is done with it."""
        return self._ended

    def put(self, chunk: Chunk) -> None:
        """For the generator: the next tokens. After the end they are dropped."""
        with self._lock:
            if not self._ended:
                self._items.put(chunk)
                if chunk.finish_reason is not None:
                    self._end(None)
                elif self._waiter:
                    self._wake()

    def fail(self, error: Exception) -> None:
        """For the generator: the answer ends with an error."""
        with self._lock:
            if not self._ended:
                self._end(error)

    def cancel(self) -> None:
        """End it now: the generator frees what it holds. After the end that is harmless."""
        with self._lock:
            if self._ended:
                return
            self._end(None)
        self._on_cancel(self)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Chunk:
        item = self._items.get()
        if isinstance(item, Chunk):
            return item
        raise self._again(item) or StopIteration

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        import asyncio

        while True:
            with self._lock:
                if not self._items.empty():
                    item = self._items.get()
                    break
                event = asyncio.Event()
                self._waiter = (asyncio.get_running_loop(), event)
            await event.wait()
        if isinstance(item, Chunk):
            return item
        raise self._again(item) or StopAsyncIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.cancel()

    def _end(self, error: Exception | None) -> None:
        self._ended = True
        self._items.put(error)
        if self._waiter:
            self._wake()

    def _again(self, end: Exception | None) -> Exception | None:
        """The end, for whoever asks once more too."""
        self._items.put(end)
        return end

    def _wake(self) -> None:
        assert self._waiter
        loop, event = self._waiter
        self._waiter = None
        with suppress(RuntimeError):  # the loop was closed: nobody waits
            loop.call_soon_threadsafe(event.set)


def now() -> float:
    """The clock of a chunk's ``time``, in seconds."""
    return time.perf_counter()
