"""Translation: a text in another language.

A model of several languages is told of them by tokens (NLLB, M2M100, mBART, Marian) or by words
before the text (T5); the build learns which from its tokenizer and configuration.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

from lepton_edge.errors import InputError, SourceError
from lepton_edge.generation.decoding import Decoding
from lepton_edge.tasks.base import Facts, refuse_value
from lepton_edge.tasks.text_to_text import (
    Asked,
    Frame,
    Language,
    TextToText,
    TextToTextConfig,
    TextToTextFacts,
    TextToTextOptions,
    TextToTextParameters,
    changed,
    decoding_of,
    facts_of,
    merged,
    prefix_of,
)

_PAIR = re.compile(r"translation_(\w+)_to_(\w+)")  # a key of T5's task_specific_params
_NEAREST = 6


@dataclass(frozen=True)
class TranslationOptions(TextToTextOptions):
    """The task's block in a recipe. What is absent is as the model's own files say."""

    source_language: str | None = None
    """The language of texts where a call does not say, by the model's own code."""
    target_language: str | None = None
    """The language to translate into where a call does not say, by the model's own code."""


@dataclass(frozen=True)
class Pair:
    """Two languages that a model is told of by words before a text."""

    prefix: str
    """The words."""
    decoding: Decoding
    """How a translation is searched where a call does not say."""


@dataclass(frozen=True)
class TranslationConfig(TextToTextConfig):
    """The task's block in a manifest."""

    languages: dict[str, Language] = field(default_factory=dict)
    """How a model that is told by tokens is told of each language, by its code."""
    pairs: dict[str, dict[str, Pair]] = field(default_factory=dict)
    """Of a model that is told by words: by the language of a text and the one to write."""
    source_language: str | None = None
    """The language of texts where a call does not say."""
    target_language: str | None = None
    """The language to translate into where a call does not say."""


@dataclass(frozen=True)
class TranslationParameters(TextToTextParameters):
    """What a call may give beside its text. None means the bundle's own."""

    source_language: str | None = None
    """The language of the text, by the model's own code, such as `eng_Latn` of NLLB."""
    target_language: str | None = None
    """The language to translate into."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("source_language", "target_language"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                refuse_value(name, value, "it is the code of a language, as text")


class Translation(TextToText):
    """Translates a text."""

    name: ClassVar[str] = "translation"
    Options = TranslationOptions
    Config: ClassVar[type] = TranslationConfig
    Parameters: ClassVar[type] = TranslationParameters

    @classmethod
    def configure(cls, options: TextToTextOptions, facts: Facts) -> TranslationConfig:
        assert isinstance(options, TranslationOptions)
        found = facts_of(facts)
        # Words of the recipe's own are for one pair: what the model has for others is not told.
        pairs = {} if options.prefix is not None else _pairs(found, options)
        config = TranslationConfig(
            decoding=decoding_of(found.generation, options),
            frame=found.frame,
            prefix=prefix_of(options, {}),
            stop=options.stop,
            languages=dict(found.languages),
            pairs=pairs,
            source_language=options.source_language or found.source_language,
            target_language=options.target_language or found.target_language,
        )
        _check_defaults(cls(config))
        return config

    def asked(self, parameters: TextToTextParameters) -> Asked:
        assert isinstance(parameters, TranslationParameters)
        config = self.config
        source = parameters.source_language or config.source_language
        target = parameters.target_language or config.target_language
        if config.pairs:
            source = _known("source_language", source, config.pairs)
            pair = config.pairs[source][_known("target_language", target, config.pairs[source])]
            decoding = self.decoding(pair.decoding, parameters)
            return Asked(pair.prefix, config.frame, decoding)
        frame, decoding = config.frame, self.decoding(config.decoding, parameters)
        if sources := self.sources:
            frame = config.languages[_known("source_language", source, sources)].frame
        elif source is not None:
            _refuse("source_language", source, bool(self.targets))
        if targets := self.targets:
            language = config.languages[_known("target_language", target, targets)]
            frame, decoding = _written(language, frame, decoding)
        elif target is not None:
            _refuse("target_language", target, bool(sources))
        return Asked(config.prefix, frame, decoding)

    @property
    def sources(self) -> list[str]:
        """The languages that a text may be in, of a model that has to be told which."""
        if self.config.pairs:
            return list(self.config.pairs)
        return [code for code, each in self.config.languages.items() if each.frame is not None]

    @property
    def targets(self) -> list[str]:
        """The languages to translate into, of a model that has to be told which."""
        if self.config.pairs:
            return list(dict.fromkeys(code for each in self.config.pairs.values() for code in each))
        return [code for code, each in self.config.languages.items() if each.can_be_written]

    def example(self) -> Mapping[str, Any]:
        """Languages where the bundle names none: English first."""
        source, target = self.config.source_language, self.config.target_language
        found: dict[str, Any] = {}
        if source is None and self.sources:
            known = [code for code in self.sources if code != target] or self.sources
            source = next((code for code in known if code.startswith("en")), known[0])
            found["source_language"] = source
        known = list(self.config.pairs.get(source, {})) if self.config.pairs else self.targets
        if target is None and known:
            found["target_language"] = next((code for code in known if code != source), known[0])
        return found


def _pairs(found: TextToTextFacts, options: TextToTextOptions) -> dict[str, dict[str, Pair]]:
    pairs: dict[str, dict[str, Pair]] = {}
    for key, own in found.tasks.items():
        if match := _PAIR.fullmatch(key):
            source, target = match.groups()
            decoding = decoding_of(merged(found.generation, own), options)
            pairs.setdefault(source, {})[target] = Pair(prefix_of(options, own), decoding)
    return pairs


def _check_defaults(task: Translation) -> None:
    """Raise `SourceError` for a language of the recipe's, or of the model's files, that the model
    does not have."""
    try:
        task.asked(TranslationParameters(**task.example()))
    except InputError as error:
        raise SourceError(error.message, hint=error.hint) from None


def _written(language: Language, frame: Frame | None, decoding: Decoding) -> tuple[Frame, Decoding]:
    """The tokens around a text, and the search, for an answer in a language."""
    changes: dict[str, Any] = {}
    if language.first is not None:
        changes["forced_bos_token_id"] = language.first
    if language.start is not None:
        changes["decoder_start_token_id"] = language.start
    frame = frame or Frame()
    return Frame(language.mark + frame.before, frame.after), changed(decoding, changes)


def _known(name: str, code: str | None, codes: Collection[str]) -> str:
    """Raise `InputError` unless the model has that language."""
    if code in codes:
        return str(code)
    what = "from" if name == "source_language" else "into"
    if code is None:
        raise InputError(
            f"the model translates {what} {_counted(codes)}: it has to be told which",
            hint=f"{name}={min(codes)!r}, or another of {_listed(None, codes)}",
        )
    raise InputError(
        f"{name} is {code!r}, and the model translates {what} {_counted(codes)} of other names",
        hint=f"the nearest: {_listed(code, codes)}",
    )


def _counted(codes: Collection[str]) -> str:
    return "one language" if len(codes) == 1 else f"{len(codes)} languages"


def _listed(code: str | None, codes: Collection[str]) -> str:
    """The codes that are most like one; some, where none is given."""
    if code is None:
        return ", ".join(sorted(codes)[:_NEAREST]) + (" …" if len(codes) > _NEAREST else "")
    from difflib import SequenceMatcher

    def unlike(each: str) -> tuple[bool, float, str]:
        a, b = code.lower(), each.lower()
        return not (a and b.startswith(a[:2])), -SequenceMatcher(None, a, b).ratio(), each

    return ", ".join(sorted(codes, key=unlike)[:_NEAREST])


def _refuse(name: str, code: str, told_of_others: bool) -> NoReturn:
    why = (
        "the model is not told that"
        if told_of_others
        else "the model translates one language into one other, and is told of none"
    )
    raise InputError(f"{name} is {code!r}: {why}", hint=f"leave {name} out")
