"""From what a user gives to what a generator is asked: prompts and conversations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from lepton_edge.errors import InputError
from lepton_edge.generation.request import Request
from lepton_edge.generation.text import Detokenizer, StopStrings
from lepton_edge.runtime.answers import Answer

if TYPE_CHECKING:
    from lepton_edge.generation.replies import ReplyParser, Style
    from lepton_edge.runtime.text import TextEncoder
    from lepton_edge.tasks.base import AnyTask
    from lepton_edge.tasks.text_generation import TextGeneration, TextGenerationParameters


# What warms up: somewhat more than the 256 tokens that openvino-genai takes of a prompt at a time,
# so that what it makes ready for as many is there before the first long prompt.
_EXAMPLE, _EXAMPLE_TOKENS = "Once upon a time. " * 56, 2
# The variable that Qwen3 gave to templates with such a switch, and others took over.
_THINKING = "enable_thinking"


@dataclass(frozen=True)
class Prompt:
    """A prompt in tokens: a request for each answer that is wanted, and what makes an `Answer` of
    the tokens of one."""

    requests: tuple[Request, ...]
    answer: Callable[[], Answer]


class PromptReader(Protocol):
    """What turns a user's input into requests, for one opened model. Safe from many threads."""

    @property
    def task(self) -> AnyTask:
        """What the model does."""

    @property
    def encoder(self) -> TextEncoder:
        """Its tokenizer."""

    def read(self, given: Any, asked: Any, position: int) -> Prompt:
        """One input, with parameters as the task reads them. ``position`` is its place in a list,
        from 1, for messages. Raises `InputError`."""

    def several(self, inputs: Any) -> bool:
        """Whether this is a list of inputs."""

    def example(self) -> tuple[Any, dict[str, Any]]:
        """An input and parameters to warm up with."""


@dataclass(frozen=True)
class _Text:
    """A prompt's tokens, whether its beginning was cut off, and how to read what follows it."""

    ids: list[int]
    truncated: bool
    is_continued: bool
    """The answer is one text with the prompt."""
    parser: Callable[[], ReplyParser] | None = None


class Prompts:
    """Reads prompts for one opened model. Safe from many threads.

    ``max_length`` is the most tokens of a prompt and its answer together.
    """

    def __init__(
        self, name: str, task: TextGeneration, encoder: TextEncoder, max_length: int
    ) -> None:
        """``name`` is the bundle's, for messages. Raises `BundleError` for a chat template that
        cannot be read."""
        self._name = name
        self.task = task
        self.encoder = encoder
        self.max_length = max_length
        config = task.config
        self._shown = {int(number): text for number, text in config.shown_tokens.items()}
        self._first = encoder.token_of(config.special_tokens.get("bos_token", ""))
        self._stop_tokens = frozenset(config.stop_tokens)
        self._template: ChatTemplate | None = None
        self._style: Style | None = None
        if config.chat_template is not None:
            from lepton_edge.generation.chat import ChatTemplate
            from lepton_edge.generation.replies import style_of

            self._template = ChatTemplate(config.chat_template, config.special_tokens)
            self._style = style_of(config.chat_template)

    def several(self, inputs: Any) -> bool:
        """Whether this is a list of prompts; a conversation is a list of messages."""
        if isinstance(inputs, (str, bytes, Mapping)) or not isinstance(inputs, Sequence):
            return False
        return bool(inputs) and all(isinstance(each, (str, list, tuple)) for each in inputs)

    def example(self) -> tuple[str, dict[str, Any]]:
        """A prompt and parameters to warm up with."""
        return _EXAMPLE, {
            "max_tokens": _EXAMPLE_TOKENS,
            "temperature": 0.0,
            "on_long_prompt": "truncate",
        }

    def read(self, given: Any, asked: TextGenerationParameters, position: int) -> Prompt:
        """A prompt as the user gave it. ``position`` is its place in a list, from 1, for messages.

        Raises `InputError`.
        """
        name = f"text {position}"
        if isinstance(given, str):
            text = self._plain(given, asked, name)
        else:
            text = self._conversation(given, asked, name)
        most = asked.max_tokens or self.task.config.max_tokens
        text, room = self._fitted(text, most, asked, name)
        sampling = self.task.sampling(asked)
        request = Request(
            prompt=text.ids,
            max_tokens=min(most, room),
            stop_tokens=self._stop_tokens,
            sampling=sampling,
            logprobs=asked.logprobs,
            grammar=asked.grammar(),
            adapters=asked.named_adapters(),
        )
        requests: tuple[Request, ...] = (request,)
        if asked.n > 1:
            # One seed gives the same answers again, and not the same answer n times.
            seeds = [None if sampling.seed is None else sampling.seed + k for k in range(asked.n)]
            requests = tuple(
                replace(request, sampling=replace(sampling, seed=seed)) for seed in seeds
            )
        stops = (*self.task.config.stop, *asked.stops())
        return Prompt(requests, lambda: self._answer(text, stops))

    def _answer(self, text: _Text, stops: Sequence[str]) -> Answer:
        return Answer(
            Detokenizer(self.encoder.decode, text.ids if text.is_continued else (), self._shown),
            StopStrings(stops),
            text.parser() if text.parser else None,
            self._stop_tokens,
            len(text.ids),
            text.truncated,
        )

    def _plain(self, given: str, asked: TextGenerationParameters, name: str) -> _Text:
        for option in ("tools", "thinking", "template_options"):
            if getattr(asked, option) is not None:
                raise InputError(
                    f"{option} goes with a conversation, and {name} is a plain text",
                    hint='give messages: [{"role": "user", "content": "…"}]',
                )
        (tokens,) = self.encoder.encode([given])
        return _Text(tokens.ids, truncated=False, is_continued=True)

    def _conversation(self, given: Any, asked: TextGenerationParameters, name: str) -> _Text:
        from lepton_edge.generation.chat import no_template
        from lepton_edge.generation.messages import read_messages, read_tools
        from lepton_edge.generation.replies import ReplyParser

        messages = read_messages(given)
        if self._template is None or self._style is None:
            raise no_template(self._name)
        tools = None if asked.tools is None else read_tools(asked.tools)
        rendered = self._template.render(messages, tools=tools, **self._variables(asked))
        (ids,) = self.encoder.pieces([rendered], lambda _: name)
        style = self._style
        thinks = style.thinking is not None and rendered.rstrip().endswith(style.thinking[0])
        return _Text(
            ids,
            truncated=False,
            is_continued=False,
            parser=lambda: ReplyParser(style, bool(tools), thinks),
        )

    def _variables(self, asked: TextGenerationParameters) -> dict[str, Any]:
        """What a call gives to the chat template beside messages and tools."""
        from lepton_edge.generation.chat import check_options

        options = dict(asked.template_options or {})
        check_options(options)
        if asked.thinking is None:
            return options
        assert self._template is not None
        if _THINKING not in self._template.variables:
            raise InputError(
                "this model's chat template has no switch for thinking",
                hint="leave thinking out, or see whether template_options has another name for it",
            )
        return {**options, _THINKING: asked.thinking}

    def _fitted(
        self, text: _Text, most: int, asked: TextGenerationParameters, name: str
    ) -> tuple[_Text, int]:
        """The text, without its beginning where that is asked for and has to be; and how many
        tokens there is room for after it."""
        length = len(text.ids)
        if length < self.max_length:
            if length + most <= self.max_length or asked.on_long_prompt == "refuse":
                return text, self.max_length - length
        elif asked.on_long_prompt == "refuse":
            raise InputError(
                f"{name} has {length:,} tokens; with an answer there is room for "
                f"{self.max_length - 1:,} of the model's {self.max_length:,}",
                hint='shorten it, or give on_long_prompt="truncate" to leave its beginning out',
            )
        kept = self.max_length - min(most, self.max_length // 2)
        head = text.ids[:1] if text.ids[0] == self._first else []
        ids = head + text.ids[length - kept + len(head) :]
        return replace(text, ids=ids, truncated=True), self.max_length - len(ids)
