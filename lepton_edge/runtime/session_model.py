"""A model that one run of a session answers for each micro-batch of texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lepton_edge.errors import InferenceError
from lepton_edge.runtime import batching
from lepton_edge.runtime.model import Model
from lepton_edge.runtime.text import check_inputs, takes_padding

if TYPE_CHECKING:
    from lepton_edge.backend import Session, Tensors
    from lepton_edge.bundle.manifest import Manifest
    from lepton_edge.runtime.profile import Profile
    from lepton_edge.runtime.text import TextEncoder, Tokens
    from lepton_edge.tasks.base import Task

# What is tokenized at one time: bounds the memory that a very long list takes.
_CHUNK_INPUTS, _CHUNK_CHARACTERS = 4096, 4_000_000
_WARM_UP = "The quick brown fox jumps over the lazy dog."


class SessionModel(Model):
    """A session, a tokenizer and a task."""

    task: Task[Any, Any]

    def __init__(
        self,
        manifest: Manifest,
        session: Session,
        encoder: TextEncoder,
        task: Task[Any, Any],
        limits: batching.Limits = batching.DEFAULT,
        profile: Profile | None = None,
    ) -> None:
        check_inputs(session.inputs)
        super().__init__(manifest, profile)
        self.session = session
        self.encoder = encoder
        self.task = task
        self.device = session.device
        self.compute = str(session.details.get("compute", ""))
        self._limits = limits.under(session.outputs)
        self._pad = takes_padding(session.inputs)

    def __call__(self, inputs: Any, **parameters: Any) -> Any:
        self._check_open()
        task = self.task
        asked = task.parameters(parameters)
        # A list of inputs; bytes are a sequence of numbers, and belong to no task.
        many = isinstance(inputs, Sequence) and not isinstance(inputs, (str, bytes, bytearray))
        listed = list(inputs) if many else [inputs]
        given = [task.read_input(each, position) for position, each in enumerate(listed, 1)]
        results: list[Any] = []
        for start, end in _chunks([task.characters(each, asked) for each in given]):
            results += self._results(given[start:end], asked, start)
        return results if many else results[0]

    def warm_up(self) -> None:
        inputs, parameters = self.task.examples([_WARM_UP])
        self._check_open()
        self._results(inputs, parameters, 0)

    def check_input(self, given: Any, parameters: Any) -> None:
        self.task.tokenize([self.task.read_input(given, 1)], self.encoder, parameters, 1)

    def _release(self) -> None:
        self.session.close()

    def _results(self, given: list[Any], parameters: Any, start: int) -> list[Any]:
        groups = self.task.tokenize(given, self.encoder, parameters, start + 1)
        sequences = [tokens for group in groups for tokens in group]
        values = self._values(sequences, parameters, _owners(groups, start))
        results = []
        end = 0
        for each, group in zip(given, groups, strict=True):
            begin, end = end, end + len(group)
            results.append(self.task.result(each, group, values[begin:end], parameters))
        return results

    def _values(
        self, sequences: list[Tokens], parameters: Any, owner: Callable[[int], int]
    ) -> list[Any]:
        """What the task reads of each sequence's outputs, computed in micro-batches."""
        lengths = [len(tokens) for tokens in sequences]
        batches = batching.plan(lengths, self.encoder.max_length, self._limits, pad=self._pad)

        def answer(batch: batching.Batch) -> Sequence[Any]:
            feeds = self.encoder.feeds(sequences, batch, self.session.inputs)
            outputs = self.session.infer(feeds)
            rows = [sequences[row] for row in batch.rows]
            self._check_numbers(outputs, rows, [owner(row) for row in batch.rows])
            return self.task.read(outputs, rows, parameters)

        values: list[Any] = [None] * len(sequences)
        for batch, found in zip(batches, self._in_streams(answer, batches), strict=True):
            for row, value in zip(batch.rows, found, strict=True):
                values[row] = value
        return values

    def _in_streams(
        self, answer: Callable[[batching.Batch], Sequence[Any]], batches: list[batching.Batch]
    ) -> Iterable[Sequence[Any]]:
        """The batches' answers, in order: as many at a time as the session has streams."""
        streams = min(int(self.session.details.get("streams", 1)), len(batches))
        if streams <= 1:
            return map(answer, batches)
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(streams, "lepton-edge-stream") as threads:
            return list(threads.map(answer, batches))

    def _check_numbers(
        self, outputs: Tensors, rows: Sequence[Tokens], owners: Sequence[int]
    ) -> None:
        """Raise `InferenceError` where an output, padding aside, has a value that is not finite."""
        import numpy as np

        for name in self.task.outputs:
            output = outputs[name]
            if np.isfinite(output).all():
                continue
            cut = self.task.without_padding(name, output, rows)
            faulty = [
                owner for owner, row in zip(owners, cut, strict=True) if not np.isfinite(row).all()
            ]
            if faulty:
                raise InferenceError(
                    f"the model's output for text {faulty[0]} is not a number "
                    f"({len(faulty)} of {len(rows)} texts in its batch)",
                    hint="the weights are damaged or overflow at this precision: "
                    "build again with precision: fp32",
                )


def _chunks(characters: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Spans of a list of inputs that are tokenized at one time."""
    start, total = 0, 0
    for index, count in enumerate(characters):
        if index > start and (index - start >= _CHUNK_INPUTS or total + count > _CHUNK_CHARACTERS):
            yield start, index
            start, total = index, 0
        total += count
    if characters:
        yield start, len(characters)


def _owners(groups: Sequence[Sequence[Tokens]], start: int) -> Callable[[int], int]:
    """From a sequence's place to the position of its input, from 1."""
    from bisect import bisect_right
    from itertools import accumulate

    ends = list(accumulate(len(group) for group in groups))
    return lambda row: start + 1 + bisect_right(ends, row)
