"""Text generation: continuing a text, and answering in a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lepton_edge.errors import InputError, SourceError
from lepton_edge.tasks.base import AnyTask, Facts, check_count, refuse_value

if TYPE_CHECKING:
    from lepton_edge.generation.request import Grammar
    from lepton_edge.generation.sampling import Sampling

# The most stop strings: each is looked for in every piece of text.
_MOST_STOPS, _LONGEST_STOP = 16, 256
_MOST_ANSWERS = 16
_MAX_TOKENS = 512
_MAX_TEMPLATE = 1_000_000


@dataclass(frozen=True)
class TextGenerationOptions:
    """The task's block in a recipe."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  (a ClassVar to pydantic)

    chat_template: str | None = None
    """A file with a Jinja template that makes a prompt of messages; the model's own where it is
    absent. A relative path starts at the recipe's folder."""
    max_tokens: int = _MAX_TOKENS
    """How many tokens an answer may have where a call does not say."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer, besides those of a call."""
    temperature: float | None = None
    """Where a call does not say: 0 takes the most likely token. The model's own, from
    generation_config.json, where it is absent."""
    top_k: int | None = None
    """As `temperature`: only the k most likely tokens; 0 for all."""
    top_p: float | None = None
    """As `temperature`: only the most likely tokens whose probabilities sum to p; 1 for all."""
    min_p: float | None = None
    """As `temperature`: only tokens at least p times as likely as the most likely; 0 for all."""
    repetition_penalty: float | None = None
    """As `temperature`: what the logits of earlier tokens are divided by; 1 for no penalty."""


@dataclass(frozen=True)
class TextGenerationConfig:
    """The task's block in a manifest."""

    stop_tokens: tuple[int, ...]
    """The ids of the tokens that end an answer."""
    chat_template: str | None = None
    """The Jinja template that makes a prompt of messages; none for a model without."""
    special_tokens: dict[str, str] = field(default_factory=dict)
    """What a chat template may name, such as `bos_token`."""
    shown_tokens: dict[str, str] = field(default_factory=dict)
    """Special tokens that mark up an answer, by id; the others are not part of its text."""
    max_tokens: int = _MAX_TOKENS
    """How many tokens an answer may have where a call does not say."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer."""
    sampling: dict[str, float | int] = field(default_factory=dict)
    """How tokens are chosen where a call does not say."""


@dataclass(frozen=True)
class TextGenerationParameters:
    """What a call may give beside its prompt. None means the bundle's own."""

    max_tokens: int | None = None
    """How many tokens the answer may have."""
    temperature: float | None = None
    """Logits are divided by it: 0 takes the most likely token each time."""
    top_k: int | None = None
    """Only the k most likely tokens; 0 for all."""
    top_p: float | None = None
    """Only the most likely tokens whose probabilities sum to p; 1 for all."""
    min_p: float | None = None
    """Only tokens at least p times as likely as the most likely one; 0 for all."""
    repetition_penalty: float | None = None
    """What the logits of tokens in the prompt and the answer are divided by; 1 for none."""
    presence_penalty: float | None = None
    """What is taken from the logits of tokens that the answer has, once."""
    frequency_penalty: float | None = None
    """What is taken from them, each time that the answer has one."""
    logit_bias: Mapping[int, float] | None = None
    """What is added to the logits of these tokens, by id."""
    seed: int | None = None
    """The same seed gives the same answer again."""
    stop: Sequence[str] | str | None = None
    """Texts that end the answer; they are not part of it."""
    n: int = 1
    """How many answers."""
    logprobs: bool = False
    """Whether the log-probability of each token is given."""
    json_schema: Mapping[str, Any] | str | None = None
    """The answer is JSON that is valid by this schema."""
    regex: str | None = None
    """The answer is a full match of this regular expression."""
    tools: Sequence[Mapping[str, Any]] | None = None
    """Functions that a conversation's answer may call, as the chat template takes them."""
    thinking: bool | None = None
    """Whether the model is to think first, where its chat template has such a switch."""
    template_options: Mapping[str, Any] | None = None
    """Other variables for the chat template."""
    adapters: Sequence[str] | Mapping[str, float] | None = None
    """LoRA adapters of the bundle, by name, or by name and strength."""
    on_long_prompt: Literal["refuse", "truncate"] = "refuse"
    """A prompt that leaves no room for the answer is refused, or loses its beginning."""

    def __post_init__(self) -> None:
        check_count("max_tokens", self.max_tokens, optional="for the bundle's own")
        check_count("n", self.n)
        if self.n > _MOST_ANSWERS:
            refuse_value("n", self.n, f"it is at most {_MOST_ANSWERS}")
        if self.json_schema is not None and self.regex is not None:
            raise InputError("an answer has one shape: json_schema or regex, not both")
        if self.on_long_prompt not in ("refuse", "truncate"):
            refuse_value("on_long_prompt", self.on_long_prompt, "it is refuse or truncate")
        for name in ("logprobs", "thinking"):
            if getattr(self, name) not in (True, False, None):
                refuse_value(name, getattr(self, name), "it is true or false")
        if self.template_options is not None and not isinstance(self.template_options, Mapping):
            refuse_value("template_options", self.template_options, "it is a mapping")
        check_stops(self.stop)

    def stops(self) -> tuple[str, ...]:
        """The stop strings of the call."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def grammar(self) -> Grammar | None:
        """What the answer must be. Raises `InputError` for a schema that is not JSON."""
        from lepton_edge.generation.request import Grammar

        if self.regex is not None:
            if not isinstance(self.regex, str):
                refuse_value("regex", self.regex, "it is a regular expression, as text")
            return Grammar("regex", self.regex)
        if self.json_schema is None:
            return None
        if isinstance(self.json_schema, str):
            return Grammar("json_schema", self.json_schema)
        import json

        try:
            return Grammar("json_schema", json.dumps(self.json_schema))
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"json_schema cannot be written as JSON: {error}") from None

    def named_adapters(self) -> tuple[tuple[str, float], ...]:
        """The adapters with their strengths. Raises `InputError`."""
        given = self.adapters
        if given is None:
            return ()
        pairs = given.items() if isinstance(given, Mapping) else ((name, 1.0) for name in given)
        found = []
        for name, strength in pairs:
            number = isinstance(strength, (int, float)) and not isinstance(strength, bool)
            if isinstance(given, str) or not isinstance(name, str) or not number:
                refuse_value(
                    "adapters", given, "it is a list of names, or a mapping of names to strengths"
                )
            found.append((name, float(strength)))
        return tuple(found)


SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
)


class TextGeneration(AnyTask):
    """Continues a prompt, or answers the last message of a conversation."""

    name: ClassVar[str] = "text-generation"
    generates: ClassVar[bool] = True
    warm_up: ClassVar[bool] = True
    Options = TextGenerationOptions
    Config = TextGenerationConfig
    Parameters = TextGenerationParameters

    @staticmethod
    def configure(options: TextGenerationOptions, facts: Facts) -> TextGenerationConfig:
        found = facts.generation
        if found is None:
            raise SourceError(
                "the source does not say how its answers end",
                hint="build from a Hugging Face folder with config.json and generation_config.json",
            )
        template = found.chat_template
        if options.chat_template is not None:
            template = _read_template(Path(options.chat_template))
        chosen = {name: getattr(options, name, None) for name in SAMPLING}
        sampling = {**found.sampling, **{k: v for k, v in chosen.items() if v is not None}}
        _check_sampling(sampling)
        if template is not None:
            _check_template(template, found.special_tokens)
        check_count("max_tokens", options.max_tokens)
        check_stops(options.stop)
        return TextGenerationConfig(
            stop_tokens=found.stop_tokens,
            chat_template=template,
            special_tokens=dict(found.special_tokens),
            shown_tokens={str(number): text for number, text in found.shown_tokens.items()},
            max_tokens=options.max_tokens,
            stop=options.stop,
            sampling=sampling,
        )

    def sampling(self, parameters: TextGenerationParameters) -> Sampling:
        """A call's, over the bundle's own. Raises `InputError`."""
        from lepton_edge.generation.sampling import Sampling

        given = {name: getattr(parameters, name) for name in SAMPLING}
        values = {name: value for name, value in given.items() if value is not None}
        return Sampling(**{**self.config.sampling, **values})


def check_stops(stop: Sequence[str] | str | None) -> None:
    """Raise `InputError` unless these are stop strings."""
    if stop is None:
        return
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if len(stops) > _MOST_STOPS:
        raise InputError(f"stop has {len(stops)} texts: it may have up to {_MOST_STOPS}")
    for each in stops:
        if not isinstance(each, str) or not 0 < len(each) <= _LONGEST_STOP:
            refuse_value("stop", each, f"each is a text of 1 to {_LONGEST_STOP} characters")


def _check_sampling(values: Mapping[str, Any]) -> None:
    """Of a source or a recipe. Raises `SourceError`."""
    from lepton_edge.generation.sampling import Sampling

    try:
        Sampling(**values)
    except InputError as error:
        raise SourceError(
            f"the model's way to sample cannot be used: {error.message}",
            hint="set it in the recipe: task_options: {temperature: …}, or mend "
            "generation_config.json",
        ) from None


def _check_template(source: str, special_tokens: Mapping[str, str]) -> None:
    from lepton_edge.errors import BundleError
    from lepton_edge.generation.chat import ChatTemplate

    try:
        ChatTemplate(source, special_tokens)
    except BundleError as error:
        raise SourceError(
            error.message, hint="give another: task_options: {chat_template: template.jinja}"
        ) from None


def _read_template(file: Path) -> str:
    """Raises `SourceError`."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(
            f"the chat template {file} cannot be read: {error}",
            hint="task_options: {chat_template: …} names a file beside the recipe",
        ) from None
    if len(text) > _MAX_TEMPLATE:
        raise SourceError(f"the chat template {file} has {len(text):,} characters: too many")
    return text
