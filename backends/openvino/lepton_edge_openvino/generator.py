"""Generating: openvino-genai's continuous batching, driven by token ids."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lepton_edge.backend import Generator, Setting
from lepton_edge.errors import InferenceError, InputError
from lepton_edge.generation.request import Chunk, FinishReason, Request, TokenStream, now
from lepton_edge_openvino.library import last_line, openvino

if TYPE_CHECKING:
    pass

_SEED_BITS = 62
# openvino-genai wants a token that ends an answer: one that no vocabulary has.
_NO_TOKEN = 2**31 - 1


class _Running:
    """A request that openvino-genai has, and the stream of its answer."""

    def __init__(self, handle: Any, stream: TokenStream) -> None:
        self.handle = handle
        self.stream = stream
        self.begun = False  # whether it has a token


class OpenVINOGenerator(Generator):
    """A pipeline and the one thread that steps it while there is something to answer.

    Requests that arrive are scheduled with those that run, step by step. The key-value cache is
    paged, and prompts that begin like an earlier one take its pages.
    """

    def __init__(
        self,
        pipeline: Any,
        genai: Any,
        device: str,
        details: Mapping[str, Setting],
        max_length: int,
        adapters: Mapping[str, Any],
        guesses: Mapping[str, Any],
    ) -> None:
        self._pipeline = pipeline
        self._genai = genai
        self.device = device
        self.details = details
        self.max_length = max_length
        self._adapters = adapters
        self._guesses = guesses
        self._running: dict[TokenStream, _Running] = {}
        self._number = 0
        self._closed = False
        self._work = threading.Condition()
        self._thread = threading.Thread(
            target=self._drive, name="lepton-edge-generator", daemon=True
        )
        self._thread.start()

    def submit(self, requests: Sequence[Request]) -> list[TokenStream]:
        import numpy as np

        configs = [self._config(request) for request in requests]
        library = openvino()
        streams: list[TokenStream] = []
        with self._work:
            if self._closed:
                raise InferenceError("the generator is closed", hint="load the bundle again")
            for request, config in zip(requests, configs, strict=True):
                self._number += 1
                ids = library.Tensor(np.array([request.prompt], np.int64))
                try:
                    handle = self._pipeline.add_request(self._number, ids, config)
                except RuntimeError as error:
                    for stream in streams:
                        stream.cancel()
                    raise InputError(
                        f"openvino-genai cannot answer this: {last_line(error)}"
                    ) from error
                stream = TokenStream(self._cancel)
                self._running[stream] = _Running(handle, stream)
                streams.append(stream)
            self._work.notify_all()
        return streams

    def close(self) -> None:
        with self._work:
            if self._closed:
                return
            self._closed = True
            self._work.notify_all()
        self._thread.join()
        self._pipeline = None

    def _cancel(self, stream: TokenStream) -> None:
        with self._work:
            running = self._running.pop(stream, None)
            if running is not None:
                running.handle.cancel()
                self._work.notify_all()  # a step frees its pages

    def _drive(self) -> None:
        """Step while there is work, and wait where there is none."""
        while True:
            with self._work:
                while not self._closed and not self._pipeline.has_non_finished_requests():
                    self._work.wait()
                if self._closed:
                    break
            try:
                self._pipeline.step()
            except Exception as error:  # of a library in C++, of any kind
                self._blame(error)
            self._hand_out()
        with self._work:
            for running in self._running.values():
                running.handle.cancel()
                running.stream.fail(
                    InferenceError("the generator was closed", hint="load the bundle again")
                )
            self._running.clear()
        self._settle()

    def _settle(self) -> None:
        """Let go of what was cancelled: a pipeline that ends with pages in use complains."""
        try:
            while self._pipeline.has_non_finished_requests():
                self._pipeline.step()
        except Exception:
            pass

    def _hand_out(self) -> None:
        """Give each stream what its request has."""
        with self._work:
            found = list(self._running.values())
        time = now()
        for running in found:
            while running.handle.can_read():
                for output in running.handle.read().values():
                    self._put(running, output, time)
            if self._status(running) == "IGNORED":
                self._end(
                    running,
                    InferenceError(
                        "the key-value cache is too small for this text",
                        hint="load with a larger cache_tokens, or ask for fewer tokens",
                    ),
                )

    def _put(self, running: _Running, output: Any, time: float) -> None:
        tokens = tuple(output.generated_ids)
        reason = _reason(output.finish_reason.name)
        if not tokens and reason is None:
            return
        running.begun = True
        logprobs = tuple(output.generated_log_probs)
        if reason is not None:
            with self._work:
                self._running.pop(running.stream, None)
        running.stream.put(Chunk(tokens, logprobs, reason, time))

    def _status(self, running: _Running) -> str:
        return str(running.handle.get_status().name)

    def _end(self, running: _Running, error: Exception) -> None:
        with self._work:
            self._running.pop(running.stream, None)
            running.handle.cancel()
        running.stream.fail(error)

    def _blame(self, error: Exception) -> None:
        """A step failed, and will again until the request that it fails for is gone: one that has
        no token yet, the newest of them first."""
        with self._work:
            found = list(self._running.values())
        if not found:
            with self._work:
                self._closed = True
            return
        waiting = [running for running in found if not running.begun] or found
        self._end(
            waiting[-1],
            InferenceError(f"openvino-genai could not answer this: {last_line(error)}"),
        )

    def _config(self, request: Request) -> Any:
        """openvino-genai's own form of a request. Raises `InputError`."""
        self._check(request)
        sampling = request.sampling
        config = self._genai.GenerationConfig()
        config.max_new_tokens = request.max_tokens
        stops = request.stop_tokens or {_NO_TOKEN}
        config.stop_token_ids = set(stops)
        config.eos_token_id = min(stops)
        config.apply_chat_template = False
        config.logprobs = int(request.logprobs)
        config.repetition_penalty = sampling.repetition_penalty
        config.presence_penalty = sampling.presence_penalty
        config.frequency_penalty = sampling.frequency_penalty
        if sampling.temperature > 0:
            config.do_sample = True
            config.temperature = sampling.temperature
            config.top_p = sampling.top_p
            config.min_p = sampling.min_p
            if sampling.top_k:
                config.top_k = sampling.top_k
            config.rng_seed = _seed(sampling.seed)
        for name, value in self._guesses.items():
            setattr(config, name, value)
        if request.grammar is not None:
            from lepton_edge.generation.grammar import to_ebnf

            # Its own schemas let white space come without end, and pass over keywords (2026.4.1).
            config.structured_output_config = self._genai.StructuredOutputConfig(
                grammar=to_ebnf(request.grammar)
            )
        return config

    def _check(self, request: Request) -> None:
        if request.sampling.logit_bias:
            raise InputError(
                "logit_bias is not for OpenVINO: openvino-genai has no such option",
                hint="json_schema, regex and stop shape an answer here",
            )
        total = len(request.prompt) + request.max_tokens
        if total > self.max_length:
            raise InputError(
                f"the prompt has {len(request.prompt):,} tokens, and with {request.max_tokens:,} "
                f"more it is longer than the model's {self.max_length:,}",
                hint="shorten the prompt, or ask for fewer tokens",
            )
        for name, _ in request.adapters:
            if name not in self._adapters:
                known = ", ".join(self._adapters) or "none"
                raise InputError(
                    f"there is no adapter {name!r}; opened: {known}",
                    hint="load(path, adapters={name: path})",
                )


def _reason(name: str) -> FinishReason | None:
    return {"STOP": "stop", "LENGTH": "length"}.get(name)  # type: ignore[return-value]


def _seed(seed: int | None) -> int:
    import secrets

    return secrets.randbits(_SEED_BITS) if seed is None else seed % 2**64
