"""Generating: openvino-genai's continuous batching, driven by token ids."""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lepton_edge.backend import Generator
from lepton_edge.errors import InferenceError
from lepton_edge.generation.request import Chunk, FinishReason, Request, TokenStream, now
from lepton_edge_openvino.library import last_line

if TYPE_CHECKING:
    from lepton_edge.backend import Setting
    from lepton_edge_openvino.adapters import Adapters
    from lepton_edge_openvino.requests import Requests

Choice = tuple[tuple[str, float], ...]
"""Adapters by name, and how strong each is."""

# How often a step may fail with nothing left but what was cancelled.
_TRIES = 3


class _Running:
    """A request, and the stream of its answer."""

    def __init__(self, request: Request, config: Any, stream: TokenStream) -> None:
        self.request = request
        self.config = config
        self.stream = stream
        self.handle: Any = None  # openvino-genai's, once it has the request
        self.answer: list[int] = []
        self.suspect = False  # whether it was beside others when a step failed


class OpenVINOGenerator(Generator):
    """A pipeline and the one thread that steps it while there is something to answer.

    Requests that arrive are scheduled with those that run, step by step. The key-value cache is
    paged, and prompts that begin like an earlier one take its pages. Only with adapters do they
    wait: openvino-genai's are those of all that it computes at a time, so that requests with other
    adapters come after those that run, in their order.
    """

    def __init__(
        self,
        pipeline: Any,
        requests: Requests,
        adapters: Adapters | None,
        device: str,
        details: Mapping[str, Setting],
        max_length: int,
    ) -> None:
        self._pipeline = pipeline
        self._requests = requests
        self._adapters = adapters
        self.device = device
        self.details = details
        self.max_length = max_length
        self._chosen: Choice = ()
        self._waiting: deque[_Running] = deque()
        self._running: dict[TokenStream, _Running] = {}
        self._number = 0
        self._closed = False
        self._work = threading.Condition()
        self._thread = threading.Thread(
            target=self._drive, name="lepton-edge-generator", daemon=True
        )
        self._thread.start()
        atexit.register(self.close)  # a thread inside the library would outlive it

    def submit(self, requests: Sequence[Request]) -> list[TokenStream]:
        configs = [self._requests.config(request, self.max_length) for request in requests]
        found = [
            _Running(request, config, TokenStream(self._cancel))
            for request, config in zip(requests, configs, strict=True)
        ]
        with self._work:
            if self._closed:
                raise _closed()
            self._waiting += found
            self._work.notify_all()
        return [each.stream for each in found]

    def close(self) -> None:
        atexit.unregister(self.close)
        with self._work:
            self._closed = True
            self._work.notify_all()
        self._thread.join()
        self._pipeline = None

    def _cancel(self, stream: TokenStream) -> None:
        with self._work:
            running = self._running.pop(stream, None)
            if running is not None:
                running.handle.cancel()
            else:
                self._waiting = deque(each for each in self._waiting if each.stream is not stream)
            self._work.notify_all()  # a step frees its pages

    def _drive(self) -> None:
        """Step while there is work, and wait where there is none."""
        reason = _closed()
        try:
            while self._next():
                try:
                    self._pipeline.step()
                except Exception as error:  # of a library in C++, of any kind
                    self._blame(error)
                self._hand_out()
        except Exception as error:  # nobody may wait for a thread that has ended
            reason = _failure(error)
        with self._work:
            self._closed = True
            left = [*self._running.values(), *self._waiting]
            self._running.clear()
            self._waiting.clear()
        for each in left:
            each.stream.fail(reason)
            if each.handle is not None:
                each.handle.cancel()
        self._settle()

    def _next(self) -> bool:
        """Wait for work and let in what waits; False where the generator is to end."""
        with self._work:
            while not self._closed:
                self._let_in()
                if self._pipeline.has_non_finished_requests():
                    return True
                if not self._waiting:
                    self._work.wait()
            return False

    def _let_in(self) -> None:
        """Give the pipeline the requests that can be answered beside those that run."""
        while self._waiting:
            first = self._waiting[0]
            if first.suspect and any(not each.answer for each in self._running.values()):
                return
            if first.request.adapters != self._chosen and not self._choose(first):
                return
            self._waiting.popleft()
            try:
                self._number += 1
                ids = self._requests.ids(first.request)
                first.handle = self._pipeline.add_request(self._number, ids, first.config)
            except Exception as error:
                first.stream.fail(_failure(error))
            else:
                self._running[first.stream] = first

    def _choose(self, first: _Running) -> bool:
        """Change to the adapters of a request; False while others run."""
        if self._pipeline.has_non_finished_requests():
            return False
        assert self._adapters is not None  # no request has adapters where none were opened
        try:
            self._adapters.choose(self._pipeline, first.request.adapters)
        except Exception as error:
            self._waiting.popleft()
            first.stream.fail(_failure(error))
            return bool(self._waiting) and self._waiting[0].request.adapters == self._chosen
        self._chosen = first.request.adapters
        return True

    def _hand_out(self) -> None:
        """Give each stream what its request has."""
        time = now()
        with self._work:  # what is cancelled between two lines here cannot be read
            for running in list(self._running.values()):
                while running.handle.can_read():
                    for output in running.handle.read().values():
                        self._put(running, output, time)
                if running.handle.get_status().name == "IGNORED":
                    self._end(
                        running,
                        InferenceError(
                            "the key-value cache has no room for this text",
                            hint="load with a larger cache_tokens, or ask for fewer tokens",
                        ),
                    )

    def _put(self, running: _Running, output: Any, time: float) -> None:
        tokens = tuple(output.generated_ids)
        reason = _REASONS.get(output.finish_reason.name)
        if not tokens and reason is None:
            return
        running.answer += tokens
        logprobs = tuple(output.generated_log_probs) if running.request.logprobs else ()
        if reason is not None:
            with self._work:
                self._running.pop(running.stream, None)
        running.stream.put(Chunk(tokens, logprobs, reason, time))

    def _end(self, running: _Running, error: Exception) -> None:
        with self._work:
            self._running.pop(running.stream, None)
            running.handle.cancel()
        running.stream.fail(error)

    def _blame(self, error: Exception) -> None:
        """A step failed, and will again until the request that it fails for is gone: one that has
        no token yet. Where there are several, they are begun again one by one. So is what was
        computed beside it, from where it was: the library is still in the middle of that step."""
        with self._work:
            found = list(self._running.values())
            self._running.clear()
            for running in found:
                running.handle.cancel()
        self._settle()
        new = [running for running in found if not running.answer]
        culprit = (new or found)[-1] if found and len(new) < 2 else None
        for running in reversed(found):
            again = None if running is culprit else self._again(running)
            if again is None:
                running.stream.fail(_failure(error))
            else:
                with self._work:
                    self._waiting.appendleft(again)

    def _again(self, running: _Running) -> _Running | None:
        """The rest of an answer as a request; None where its beginning cannot be told apart from
        the prompt."""
        request, done = running.request, len(running.answer)
        sampling = request.sampling
        if done and (request.grammar or sampling.presence_penalty or sampling.frequency_penalty):
            return None
        rest = replace(
            request,
            prompt=[*request.prompt, *running.answer],
            max_tokens=request.max_tokens - done,
        )
        again = _Running(rest, self._requests.config(rest, self.max_length), running.stream)
        again.suspect = not done
        return again

    def _settle(self) -> None:
        """Let the pipeline let go of what was cancelled, which a failed step may need twice."""
        for _ in range(_TRIES):
            try:
                while self._pipeline.has_non_finished_requests():
                    self._pipeline.step()
                return
            except Exception:
                continue
        self._closed = True  # it cannot be used any more


_REASONS: dict[str, FinishReason] = {"STOP": "stop", "LENGTH": "length"}


def _failure(error: Exception) -> InferenceError:
    found = InferenceError(f"openvino-genai could not answer this: {last_line(error)}")
    found.__cause__ = error
    return found


def _closed() -> InferenceError:
    return InferenceError("the generator is closed", hint="load the bundle again")
