"""A generator over a decoder's steps, for a backend whose library brings none."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_edge.backend import Generator
from lepton_edge.errors import InferenceError, InputError, LeptonError
from lepton_edge.generation.grammar import GrammarTokens
from lepton_edge.generation.loop import Row, Stepper, Taken, check_length, run
from lepton_edge.generation.request import Chunk, Request, TokenStream, now

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Limits:
    """What a stepper's batch may be.

    ``rows`` is how many texts, ``length`` how many tokens of one, prompt and answer together, and
    ``cache_tokens`` those of all, padding among them. ``vocabulary`` is how many tokens the model
    knows, where that is known.
    """

    rows: int
    length: int
    cache_tokens: int
    vocabulary: int | None = None


@dataclass(frozen=True, eq=False)
class _Job:
    """A request that waits or is answered."""

    row: Row
    stream: TokenStream

    @property
    def prompt_tokens(self) -> int:
        return len(self.row.request.prompt)

    @property
    def max_tokens(self) -> int:
        return self.row.request.max_tokens


class StepGenerator(Generator):
    """Answers requests in batches, with one thread that steps while there is something to answer.

    A batch is the request that has waited longest, and as many of those after it as fit; it runs
    until the last of its answers ends, and requests that arrive meanwhile wait for the next one.
    What is cancelled, or fails alone, is left out from the next step on; a step that fails ends the
    answers of its batch, and no others.

    It takes over the stepper, and closes it. ``tokenizer`` is the bundle's tokenizer.json, which is
    read when a grammar comes; ``pad_id`` any token's id.
    """

    def __init__(
        self,
        stepper: Stepper,
        limits: Limits,
        tokenizer: Path,
        device: str,
        pad_id: int = 0,
    ) -> None:
        self.device = device
        self.details = {
            **stepper.details,
            "batch": limits.rows,
            "cache_tokens": limits.cache_tokens,
        }
        self.max_length = min(limits.length, limits.cache_tokens)
        self._stepper = stepper
        self._limits = limits
        self._pad_id = pad_id
        self._tokens = GrammarTokens(tokenizer)
        self._waiting: list[_Job] = []
        self._closed = False
        self._work = threading.Condition()
        self._thread = threading.Thread(
            target=self._answer_all, name="lepton-edge-generator", daemon=True
        )
        self._thread.start()

    def submit(self, requests: Sequence[Request]) -> list[TokenStream]:
        for request in requests:
            self._check(request)
        jobs = [_Job(self._row(request), TokenStream(self._forget)) for request in requests]
        with self._work:
            if self._closed:
                raise _closed()
            self._waiting += jobs
            self._work.notify_all()
        return [job.stream for job in jobs]

    def close(self) -> None:
        with self._work:
            self._closed = True
            self._work.notify_all()
        self._thread.join()
        self._stepper.close()

    def _check(self, request: Request) -> None:
        check_length(request, self.max_length)
        if request.adapters:
            raise InputError(
                f"there is no adapter {request.adapters[0][0]!r}: {self.device} takes none",
                hint="leave adapters out, or load the bundle with OpenVINO",
            )
        known = self._limits.vocabulary
        for token, _ in request.sampling.biases:
            if known is not None and token >= known:
                raise InputError(
                    f"logit_bias has the token {token:,}; the model's are 0 to {known - 1:,}"
                )

    def _row(self, request: Request) -> Row:
        grammar = request.grammar
        return Row(request, self._tokens.matcher(grammar, request.stop_tokens) if grammar else None)

    def _forget(self, stream: TokenStream) -> None:
        """A stream was cancelled. One that is being answered is left out by the thread."""
        with self._work:
            self._waiting = [job for job in self._waiting if job.stream is not stream]

    def _answer_all(self) -> None:
        while True:
            with self._work:
                while not self._waiting and not self._closed:
                    self._work.wait()
                if self._closed:
                    break
                batch = self._next_batch()
            self._answer(batch)
        with self._work:
            left, self._waiting = self._waiting, []
        for job in left:
            job.stream.fail(_closed())

    def _next_batch(self) -> list[_Job]:
        """Takes them out of those that wait. Of the longest prompt and the longest answer, every
        row of a batch has the tokens."""
        batch: list[_Job] = []
        prompt = answer = 0
        for job in self._waiting:
            if len(batch) == self._limits.rows:
                break
            wider = max(prompt, job.prompt_tokens), max(answer, job.max_tokens)
            length = sum(wider)
            fits = (len(batch) + 1) * length <= self._limits.cache_tokens
            if fits and length <= self._limits.length:
                batch.append(job)
                prompt, answer = wider
        self._waiting = [job for job in self._waiting if job not in batch]
        return batch

    def _answer(self, batch: Sequence[_Job]) -> None:
        for job in batch:
            _hand_out(job, None)  # it may have been cancelled since it was taken
        try:
            with closing(run(self._stepper, [job.row for job in batch], self._pad_id)) as steps:
                for taken in steps:
                    for job, each in zip(batch, taken, strict=True):
                        _hand_out(job, each)
                    if self._closed:
                        break
        except Exception as error:  # of any kind: who waits is told, and the thread goes on
            for job in batch:
                job.stream.fail(_failure(error))
        for job in batch:  # the others have ended
            job.stream.fail(_closed())


def _hand_out(job: _Job, taken: Taken | None) -> None:
    if taken is not None and taken.error is not None:
        job.stream.fail(taken.error)
    elif taken is not None and taken.token is not None:
        logprobs = () if taken.logprob is None else (taken.logprob,)
        job.stream.put(Chunk((taken.token,), logprobs, taken.finish_reason, now()))
    if job.stream.ended:  # by its last token, or cancelled
        job.row.is_running = False


def _failure(error: Exception) -> InferenceError:
    """One for each stream: each is raised in another thread."""
    if isinstance(error, LeptonError):
        found = InferenceError(error.message, hint=error.hint)
    else:
        found = InferenceError(f"a step of the model failed: {type(error).__name__}: {error}")
    found.__cause__ = error
    return found


def _closed() -> InferenceError:
    return InferenceError("the generator is closed", hint="load the bundle again")
