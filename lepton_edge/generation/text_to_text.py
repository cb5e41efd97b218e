"""A generator over the two sessions of an encoder-decoder model, any backend's."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_edge.backend import Generator
from lepton_edge.errors import InferenceError, InputError, LeptonError
from lepton_edge.generation.beams import EncoderDecoder, beam_steps, greedy_steps
from lepton_edge.generation.request import Chunk, Request, TokenStream, now

if TYPE_CHECKING:
    from lepton_edge.backend import Session
    from lepton_edge.generation.decoding import Decoding
    from lepton_edge.generation.hypotheses import Hypothesis
    from lepton_edge.generation.request import FinishReason

# Bounds of a batch: rows, each beam one; and bytes of what the decoder keeps, with answers as long
# as their texts. One text goes whatever it takes.
_MOST_ROWS = 32
_MOST_BYTES = 512 * 2**20


@dataclass(frozen=True)
class _Job:
    """A search that waits or runs, and who wants which of its answers, by rank."""

    text: tuple[int, ...]
    decoding: Decoding
    streams: list[tuple[int, TokenStream]]

    @property
    def is_wanted(self) -> bool:
        return not all(stream.ended for _, stream in self.streams)

    def put(self, token: int, finished: FinishReason | None) -> None:
        """A token of a greedy answer."""
        for _, stream in self.streams:
            stream.put(Chunk((token,), (), finished, now()))

    def found(self, answers: Sequence[Hypothesis]) -> None:
        """The answers of a beam search."""
        for rank, stream in self.streams:
            if rank < len(answers):
                best = answers[rank]
                stream.put(Chunk(best.tokens, (), best.finish_reason, now(), best.score))
            else:
                stream.fail(InferenceError(f"the search found {len(answers)} answers and no more"))

    def fail(self, error: Exception) -> None:
        """Each stream has an error of its own: it is raised in another thread."""
        for _, stream in self.streams:
            stream.fail(_failure(error))


class TextToTextGenerator(Generator):
    """Answers texts in batches, with one thread that works while there is something to answer.

    A batch is of texts of like length that wait for the same kind of search, one of them the one
    that has waited longest; it runs until the last of its answers ends, and requests that arrive
    meanwhile wait for the next one. Greedy answers come token by token, those of a beam search
    whole. What is cancelled, or fails alone, is left out from the next step on; a step that fails
    ends the answers of its batch, and no others.

    It takes over the sessions, and closes them. ``max_length`` is the most tokens of a text, and
    of an answer. Raises `InferenceError` for sessions that are not of such a model.
    """

    def __init__(self, encoder: Session, decoder: Session, max_length: int) -> None:
        self._model = EncoderDecoder(encoder, decoder, max_length)
        self.device = decoder.device
        self.details = decoder.details
        self.max_length = max_length
        self._waiting: list[_Job] = []
        self._closed = False
        self._work = threading.Condition()
        self._thread = threading.Thread(
            target=self._answer_all, name="lepton-edge-generator", daemon=True
        )
        self._thread.start()

    def submit(self, requests: Sequence[Request]) -> list[TokenStream]:
        """As `Generator.submit`. Every request has a ``decoding``; those of one call with the same
        text and the same one are one search."""
        for request in requests:
            self._check(request)
        streams = [TokenStream(self._forget) for _ in requests]
        jobs: dict[tuple[tuple[int, ...], Decoding], _Job] = {}
        for request, stream in zip(requests, streams, strict=True):
            assert request.decoding is not None  # checked
            text = tuple(request.prompt)
            job = jobs.setdefault((text, request.decoding), _Job(text, request.decoding, []))
            job.streams.append((request.rank, stream))
        with self._work:
            if self._closed:
                raise _closed()
            self._waiting += jobs.values()
            self._work.notify_all()
        return streams

    def close(self) -> None:
        with self._work:
            self._closed = True
            self._work.notify_all()
        self._thread.join()
        self._model.encoder.close()
        self._model.decoder.close()

    def _check(self, request: Request) -> None:
        decoding = request.decoding
        if decoding is None:
            raise InputError("a text is answered by a search, and the request has no decoding")
        if not 0 <= request.rank < decoding.num_beams:
            raise InputError(
                f"rank is {request.rank}: a search with num_beams {decoding.num_beams} finds "
                f"0 to {decoding.num_beams - 1}"
            )
        self._model.check([request.prompt], decoding)

    def _forget(self, stream: TokenStream) -> None:
        """A stream was cancelled. One that is being answered is left out by the thread."""
        with self._work:
            self._waiting = [job for job in self._waiting if job.is_wanted]

    def _answer_all(self) -> None:
        while True:
            with self._work:
                while not self._waiting and not self._closed:
                    self._work.wait()
                if self._closed:
                    break
                batch = self._next_batch()
            try:
                self._answer(batch)
            except Exception as error:  # those who wait are told, and the thread goes on
                for job in batch:
                    job.fail(error)
            for job in batch:  # the others have ended
                job.fail(_closed())
        with self._work:
            left, self._waiting = self._waiting, []
        for job in left:
            job.fail(_closed())

    def _next_batch(self) -> list[_Job]:
        """Takes them out of those that wait: neighbours in length of the one that came first."""
        first = self._waiting[0]
        alike = sorted(
            (job for job in self._waiting if job.decoding == first.decoding),
            key=lambda job: len(job.text),
        )
        start = next(place for place, job in enumerate(alike) if job is first)
        end = start + 1
        while True:
            if end < len(alike) and self._fits(alike[start : end + 1]):
                end += 1
            elif start > 0 and self._fits(alike[start - 1 : end]):
                start -= 1
            else:
                break
        batch = alike[start:end]
        taken = {id(job) for job in batch}
        self._waiting = [job for job in self._waiting if id(job) not in taken]
        return batch

    def _fits(self, batch: Sequence[_Job]) -> bool:
        rows = len(batch) * batch[0].decoding.num_beams
        tokens = 2 * max(len(job.text) for job in batch)
        return rows <= _MOST_ROWS and rows * tokens * self._model.token_bytes <= _MOST_BYTES

    def _answer(self, batch: Sequence[_Job]) -> None:
        decoding, texts = batch[0].decoding, [job.text for job in batch]

        def is_wanted(place: int) -> bool:
            return not self._closed and batch[place].is_wanted

        if decoding.num_beams == 1:
            for step in greedy_steps(self._model, texts, decoding, is_wanted):
                for job, token, finished in zip(batch, step.tokens, step.finished, strict=True):
                    if token is not None:
                        job.put(token, finished)
                for place, fault in step.faults.items():
                    batch[place].fail(fault)
            return
        for ended in beam_steps(self._model, texts, decoding, is_wanted):
            for place, answers in ended.items():
                if isinstance(answers, InferenceError):
                    batch[place].fail(answers)
                else:
                    batch[place].found(answers)


def _failure(error: Exception) -> InferenceError:
    if isinstance(error, LeptonError):
        found = InferenceError(error.message, hint=error.hint)
    else:
        found = InferenceError(f"a step of the model failed: {type(error).__name__}: {error}")
    found.__cause__ = error
    return found


def _closed() -> InferenceError:
    return InferenceError("the generator is closed", hint="load the bundle again")
