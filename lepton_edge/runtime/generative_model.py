"""A model that answers token by token: prompts and conversations in, text out, whole or as it
comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from lepton_edge.errors import InputError, LeptonError
from lepton_edge.runtime.answers import Answer, Completion, Delta
from lepton_edge.runtime.model import Model

if TYPE_CHECKING:
    from typing_extensions import Self

    from lepton_edge.backend import Generator
    from lepton_edge.bundle.manifest import Manifest
    from lepton_edge.generation.request import Chunk, TokenStream
    from lepton_edge.runtime.prompts import Prompt, PromptReader


class GenerativeModel(Model):
    """A generator, a tokenizer and a task.

    With text-generation, a prompt is a text (str), to be continued; or a conversation, a list of
    messages as the OpenAI chat API has them (``{"role": "user", "content": "…"}``), to be answered.
    With translation, summarization and text2text-generation it is a text. A list of prompts is
    answered together. ``parameters`` are the task's own, such as ``max_tokens``.
    """

    def __init__(self, manifest: Manifest, generator: Generator, prompts: PromptReader) -> None:
        super().__init__(manifest)
        self.generator = generator
        self.prompts = prompts
        self.task = prompts.task
        self.device = generator.device
        self.compute = str(generator.details.get("compute", ""))

    def __call__(self, inputs: Any, **parameters: Any) -> Any:
        """As `generate`."""
        return self.generate(inputs, **parameters)

    def generate(
        self, inputs: Any, *, errors: Literal["raise", "return"] = "raise", **parameters: Any
    ) -> Any:
        """A `Completion` for a prompt; a list of them, in order, for a list of prompts.

        Raises `InputError` for a prompt or a parameter that cannot be used, before any is begun,
        and `InferenceError`. A prompt at fault is named by its position; with
        ``errors="return"`` its error takes its place in the list, and the others are answered.
        """
        if errors not in ("raise", "return"):
            raise InputError(f"errors is {errors!r}: it is raise or return")
        asked = self.task.parameters(parameters)
        many = self.prompts.several(inputs)
        listed = list(inputs) if many else [inputs]
        if many and errors == "return":
            return self._completions_or_errors(listed, asked)
        prompts = [
            self.prompts.read(each, asked, position) for position, each in enumerate(listed, 1)
        ]
        results = [_completion(streams) for streams in self._read(self._begin(prompts))]
        return results if many else results[0]

    async def agenerate(self, inputs: Any, **parameters: Any) -> Any:
        """As `generate` with one prompt, awaited: the event loop goes on meanwhile."""
        if self.prompts.several(inputs):
            raise InputError("agenerate takes one prompt: gather several calls")
        async with self.stream(inputs, **parameters) as stream:
            async for _ in stream:
                pass
            return stream.completion

    def stream(self, inputs: Any, **parameters: Any) -> TextStream:
        """The answer to one prompt as it comes: an iterator of `Delta`, for ``for`` and for
        ``async for``, whose ``completion`` is the whole answer afterwards. A beam search
        gives one delta, at its end.

        Leave it early through ``cancel``, or use it as a context manager: what it holds on the
        device is free at once. Raises `InputError` here, and `InferenceError` while iterating.
        """
        if self.prompts.several(inputs):
            raise InputError("stream takes one prompt", hint="generate takes several")
        asked = self.task.parameters(parameters)
        prompt = self.prompts.read(inputs, asked, 1)
        if len(prompt.requests) > 1:
            raise InputError(
                f"stream gives one answer, and {len(prompt.requests)} were asked for",
                hint="ask for one, or call generate",
            )
        ((stream,),) = self._begin([prompt])
        return stream

    def check_input(self, given: Any, parameters: Any) -> None:
        self.prompts.read(given, parameters, 1)

    def warm_up(self) -> None:
        given, parameters = self.prompts.example()
        asked = self.task.parameters(parameters)
        self._read(self._begin([self.prompts.read(given, asked, 1)]))

    def _release(self) -> None:
        self.generator.close()

    def _begin(self, prompts: Sequence[Prompt]) -> list[list[TextStream]]:
        """The streams of each prompt, begun together."""
        self._check_open()
        streams = iter(
            self.generator.submit([request for each in prompts for request in each.requests])
        )
        return [
            [TextStream(next(streams), each.answer()) for _ in each.requests] for each in prompts
        ]

    def _read(self, begun: list[list[TextStream]]) -> list[list[TextStream]]:
        """The same, to their ends. Raises the first error, and cancels what still runs."""
        try:
            for streams in begun:
                for stream in streams:
                    stream.read()
        except BaseException:
            for streams in begun:
                for stream in streams:
                    stream.cancel()
            raise
        return begun

    def _completions_or_errors(
        self, listed: Sequence[Any], asked: Any
    ) -> list[Completion | LeptonError]:
        begun: list[list[TextStream] | LeptonError] = []
        for position, each in enumerate(listed, 1):
            try:
                begun += self._begin([self.prompts.read(each, asked, position)])
            except InputError as error:
                begun.append(error)
        results: list[Completion | LeptonError] = []
        for given in begun:
            try:
                results.append(
                    given if isinstance(given, LeptonError) else _completion(*self._read([given]))
                )
            except LeptonError as error:
                results.append(error)
        return results


class TextStream:
    """One answer as it comes: an iterator of `Delta`, for ``for`` and for ``async for``.

    It ends after the delta that has a finish reason, or after `cancel`. A context manager, which
    cancels what is not over.
    """

    def __init__(self, tokens: TokenStream, answer: Answer) -> None:
        self._tokens = tokens
        self._answer = answer

    @property
    def completion(self) -> Completion:
        """The answer so far; the whole one after the last delta."""
        return self._answer.completion()

    def read(self) -> None:
        """Wait for the end. Raises `InferenceError`."""
        for _ in self:
            pass

    def cancel(self) -> None:
        """End the answer now; what it holds on the device is free. Harmless after the end."""
        self._tokens.cancel()
        self._answer.cancel()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Delta:
        while True:
            if self._answer.ended:
                raise StopIteration
            if (delta := self._delta(next(self._tokens))) is not None:
                return delta

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        while True:
            if self._answer.ended:
                raise StopAsyncIteration
            if (delta := self._delta(await self._tokens.__anext__())) is not None:
                return delta

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.cancel()

    def _delta(self, chunk: Chunk) -> Delta | None:
        delta = self._answer.add(chunk)
        if self._answer.ended:
            self._tokens.cancel()  # where a stop string ended it; harmless otherwise
        return delta


def _completion(streams: Sequence[TextStream]) -> Completion:
    """A prompt's answers as one result."""
    found = [stream.completion for stream in streams]
    return found[0] if len(found) == 1 else replace(found[0], choices=tuple(found))
