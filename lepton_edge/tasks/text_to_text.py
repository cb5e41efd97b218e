"""What the tasks that write a text about another have in common: translation, summarization, and
whatever else an encoder with a decoder was trained for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from lepton_edge.errors import BundleError, InputError, SourceError
from lepton_edge.generation.decoding import Decoding
from lepton_edge.tasks.base import AnyTask, Facts, check_count, refuse_value
from lepton_edge.tasks.text_generation import check_stops

if TYPE_CHECKING:
    from typing_extensions import Self

# Each beam is a row of the decoder's batch, with a cache of its own.
_MOST_BEAMS = 32
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "seed")

# A parameter's name, where it is not the one that `Decoding` has from transformers.
_NAMES = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}
_CHOSEN = (
    "max_new_tokens",
    "min_new_tokens",
    "num_beams",
    "length_penalty",
    "early_stopping",
    "no_repeat_ngram_size",
    "repetition_penalty",
)


@dataclass(frozen=True)
class Frame:
    """The tokens that a model's tokenizer puts before and after those of a text."""

    before: tuple[int, ...] = ()
    """Before them."""
    after: tuple[int, ...] = ()
    """After them."""


@dataclass(frozen=True)
class Language:
    """How a model of several languages is told of one."""

    frame: Frame | None = None
    """What stands around a text in it; none where the model is not told what it reads."""
    first: int | None = None
    """The first token of an answer in it."""
    start: int | None = None
    """What the decoder starts an answer in it with, in place of its usual token."""
    mark: tuple[int, ...] = ()
    """What stands before a text that is to be answered in it."""

    @property
    def can_be_written(self) -> bool:
        """Whether there is a way to ask for it."""
        return self.first is not None or self.start is not None or bool(self.mark)


@dataclass(frozen=True)
class TextToTextFacts:
    """What a source says about a model that writes a text about another.

    ``generation`` are the values of its generation_config.json, ``tasks`` those of
    ``task_specific_params`` by task; ``frame`` is what stands around a text where no language is
    named. ``source_language`` and ``target_language`` are those that it was saved with.
    """

    generation: Mapping[str, Any]
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    frame: Frame = Frame()
    languages: Mapping[str, Language] = field(default_factory=dict)
    source_language: str | None = None
    target_language: str | None = None


@dataclass(frozen=True)
class TextToTextOptions:
    """The task's block in a recipe. What is absent is as the model's own files say."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  (a ClassVar to pydantic)

    prefix: str | None = None
    """A text that is put before each one, such as `"summarize: "`."""
    max_tokens: int | None = None
    """How many tokens an answer may have where a call does not say."""
    min_tokens: int | None = None
    """How many it has at least."""
    num_beams: int | None = None
    """How many beginnings of an answer a beam search goes on with; 1 takes the likeliest token each
    time."""
    length_penalty: float | None = None
    """With beams: above 0, longer answers gain."""
    early_stopping: bool | Literal["never"] | None = None
    """With beams: whether the search ends as soon as it has as many answers as beams; `never` goes
    on while a better one is possible."""
    no_repeat_ngram_size: int | None = None
    """No sequence of so many tokens comes twice in an answer; 0 for no such rule."""
    repetition_penalty: float | None = None
    """What the logits of tokens that the answer has are divided by; 1 for none."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer, besides those of a call."""


@dataclass(frozen=True)
class TextToTextConfig:
    """The task's block in a manifest."""

    decoding: Decoding
    """How an answer is searched where a call does not say."""
    frame: Frame = Frame()
    """The tokens before and after a text's own."""
    prefix: str = ""
    """The text that is put before each one."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer."""


@dataclass(frozen=True)
class TextToTextParameters:
    """What a call may give beside its text. None means the bundle's own."""

    max_tokens: int | None = None
    """How many tokens the answer may have."""
    min_tokens: int | None = None
    """How many it has at least."""
    num_beams: int | None = None
    """How many beginnings of an answer a beam search goes on with; 1 takes the likeliest token each
    time."""
    num_return_sequences: int = 1
    """How many answers, the best first: up to as many as beams."""
    length_penalty: float | None = None
    """With beams: above 0, longer answers gain."""
    early_stopping: bool | Literal["never"] | None = None
    """With beams: whether the search ends as soon as it has as many answers as beams; `never` goes
    on while a better one is possible."""
    no_repeat_ngram_size: int | None = None
    """No sequence of so many tokens comes twice in the answer; 0 for no such rule."""
    repetition_penalty: float | None = None
    """What the logits of tokens that the answer has are divided by; 1 for none."""
    stop: Sequence[str] | str | None = None
    """Texts that end the answer; they are not part of it."""

    def __post_init__(self) -> None:
        check_count("max_tokens", self.max_tokens, optional="for the bundle's own")
        check_count("num_beams", self.num_beams, optional="for the bundle's own")
        check_count("num_return_sequences", self.num_return_sequences)
        if self.num_beams is not None and self.num_beams > _MOST_BEAMS:
            refuse_value("num_beams", self.num_beams, f"it is at most {_MOST_BEAMS}")
        check_stops(self.stop)

    def stops(self) -> tuple[str, ...]:
        """The stop strings of the call."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class Asked(NamedTuple):
    """What a call asks of the model: the text before each one, the tokens around them, and how the
    answer is searched."""

    prefix: str
    frame: Frame
    decoding: Decoding


class TextToText(AnyTask):
    """A text to another. A subclass says what for."""

    generates: ClassVar[bool] = True
    warm_up: ClassVar[bool] = True
    Options = TextToTextOptions
    Config: ClassVar[type] = TextToTextConfig
    Parameters: ClassVar[type] = TextToTextParameters

    @classmethod
    def from_manifest(cls, config: Mapping[str, Any]) -> Self:
        try:
            return super().from_manifest(config)
        except InputError as error:  # from `Decoding`
            raise BundleError(
                f"the manifest's task_config does not fit {cls.name}: {error.message}",
                hint="build or copy the bundle again",
            ) from None

    @classmethod
    def parameters(cls, given: Mapping[str, Any]) -> Any:
        if sampled := [name for name in _SAMPLING if name in given]:
            raise InputError(
                f"{cls.name} has no option {sampled[0]!r}: it searches for the likeliest answer, "
                "and draws none at random",
                hint="num_beams, and num_return_sequences for several answers",
            )
        return super().parameters(given)

    @classmethod
    def configure(cls, options: TextToTextOptions, facts: Facts) -> Any:
        found = facts_of(facts)
        own = found.tasks.get(cls.name, {})
        return TextToTextConfig(
            decoding=decoding_of(merged(found.generation, own), options),
            frame=found.frame,
            prefix=prefix_of(options, own),
            stop=options.stop,
        )

    def asked(self, parameters: TextToTextParameters) -> Asked:
        """What a call asks of the model. Raises `InputError`."""
        config = self.config
        return Asked(config.prefix, config.frame, self.decoding(config.decoding, parameters))

    @staticmethod
    def decoding(own: Decoding, parameters: TextToTextParameters) -> Decoding:
        """A call's, over the bundle's own. Raises `InputError`."""
        given = chosen(parameters)
        most = given.get("max_new_tokens", own.max_new_tokens)
        # Only a call that asks for both can ask for what cannot be.
        given.setdefault("min_new_tokens", min(own.min_new_tokens, most))
        given.setdefault("max_new_tokens", max(own.max_new_tokens, given["min_new_tokens"]))
        if given["min_new_tokens"] > given["max_new_tokens"]:
            refuse_value(
                "min_tokens",
                given["min_new_tokens"],
                f"max_tokens is {given['max_new_tokens']}, which is less",
            )
        found = changed(own, given)
        if parameters.num_return_sequences > found.num_beams:
            refuse_value(
                "num_return_sequences",
                parameters.num_return_sequences,
                f"a search with num_beams {found.num_beams} finds no more answers than that",
            )
        return found

    def example(self) -> Mapping[str, Any]:
        """Parameters of a call for warming up and measuring, where a user has not said any."""
        return {}


def facts_of(facts: Facts) -> TextToTextFacts:
    """Raises `SourceError` where the source does not say how it generates."""
    if facts.text_to_text is None:
        raise SourceError(
            "the source does not say how an answer is written",
            hint="build from a Hugging Face folder with config.json and generation_config.json",
        )
    return facts.text_to_text


def merged(values: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """generation_config.json's values under those that a task has of its own."""
    found = {**values, **own}
    for name, longer in (("max_new_tokens", "max_length"), ("min_new_tokens", "min_length")):
        if longer in own and name not in own:
            found.pop(name, None)
    return found


def decoding_of(values: Mapping[str, Any], options: TextToTextOptions) -> Decoding:
    """From generation_config.json's values and the recipe's, which win. Raises `SourceError`."""
    given = chosen(options)
    if "max_new_tokens" in given:  # a least number of the model's own gives way to it
        least = values.get("min_new_tokens") or max((values.get("min_length") or 0) - 1, 0)
        given.setdefault("min_new_tokens", min(least, given["max_new_tokens"]))
    try:
        return Decoding.from_generation_config(values, **given)
    except InputError as error:
        raise SourceError(
            f"the model's way to write an answer cannot be used: {error.message}",
            hint="set it in the recipe, in task_options, or mend generation_config.json",
        ) from None


def chosen(given: TextToTextOptions | TextToTextParameters) -> dict[str, Any]:
    """What a recipe or a call says of a search, by the names of `Decoding`."""
    values = {name: getattr(given, _NAMES.get(name, name)) for name in _CHOSEN}
    return {name: value for name, value in values.items() if value is not None}


def changed(own: Decoding, changes: Mapping[str, Any]) -> Decoding:
    """Raises `InputError`, with the names that a call has."""
    try:
        return replace(own, **changes)
    except InputError as error:
        message = error.message
        for name, said in _NAMES.items():
            message = message.replace(name, said)
        raise InputError(message, hint=error.hint) from None


def prefix_of(options: TextToTextOptions, own: Mapping[str, Any]) -> str:
    """The recipe's, else that of the model's ``task_specific_params``."""
    return str(own.get("prefix") or "") if options.prefix is None else options.prefix
