"""What a tokenizer puts around a text, and how a model of several languages is told of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lepton_edge.builder.quiet import quiet
from lepton_edge.builder.sentences import SENTENCES
from lepton_edge.errors import SourceError
from lepton_edge.tasks.text_to_text import Frame, Language

# As NLLB (eng_Latn) and mBART (en_XX) name languages.
_CODE = re.compile(r"[a-z]{2,3}_[A-Z][A-Za-z]{1,3}")
_PROBES = ("Hello.", "a b")
_SAVE_HINT = (
    "save the tokenizer again with this transformers: "
    "AutoTokenizer.from_pretrained(…).save_pretrained(…)"
)


@dataclass(frozen=True)
class Frames:
    """``default`` is what stands around a text where no language is named."""

    default: Frame
    languages: Mapping[str, Language] = field(default_factory=dict)
    source_language: str | None = None
    target_language: str | None = None


def learn_frames(
    tokenizer: Any, own: str, generation: Mapping[str, Any], vocabulary: int
) -> Frames:
    """From transformers' tokenizer, by asking it; ``own`` is the tokenizer.json that takes its
    place, ``generation`` the values of generation_config.json, ``vocabulary`` how many tokens the
    model has.

    Raises `SourceError` where ``own`` cuts texts into other tokens than transformers does.
    """
    from tokenizers import Tokenizer

    inner: Any = Tokenizer.from_str(own)
    with quiet():  # it warns of texts that are longer than the model's
        frame = _frame(tokenizer, lambda text: _plain(inner, text), SENTENCES)
    if codes := getattr(tokenizer, "supported_language_codes", None):  # Marian's: >>fra<<
        marks = {code.strip("><"): tokenizer.convert_tokens_to_ids(code) for code in codes}
        return Frames(frame, {code: Language(mark=(mark,)) for code, mark in marks.items()})
    ids = {
        code: number
        for code, number in _codes(tokenizer).items()
        if number < vocabulary and number != tokenizer.unk_token_id
    }
    if not ids:
        return Frames(frame)
    _check_same(tokenizer, inner, ids)
    languages = _languages(tokenizer, ids)
    start, first = generation.get("decoder_start_token_id"), generation.get("forced_bos_token_id")
    by_id: dict[Any, str] = {number: code for code, number in ids.items()}
    if start in by_id:  # mBART's first models: the decoder starts with the language itself
        languages = {
            code: replace(language, first=None, start=ids[code])
            for code, language in languages.items()
        }
    stated = tokenizer.init_kwargs
    source, target = stated.get("src_lang"), stated.get("tgt_lang")
    return Frames(
        frame,
        languages,
        source_language=source if source in ids else None,
        target_language=by_id.get(start) or by_id.get(first) or (target if target in ids else None),
    )


def _codes(tokenizer: Any) -> dict[str, int]:
    """The languages of a tokenizer that is told which one a text is in, with their tokens."""
    if not hasattr(tokenizer, "set_src_lang_special_tokens"):
        return {}
    if hasattr(tokenizer, "get_lang_id"):  # M2M100's: en, whose token is __en__
        return {code: tokenizer.get_lang_id(code) for code in tokenizer.lang_code_to_id}
    added = {str(token.content): number for number, token in tokenizer.added_tokens_decoder.items()}
    known = {**added, **(getattr(tokenizer, "lang_code_to_id", None) or {})}
    found = {code: tokenizer.convert_tokens_to_ids(code) for code in known if _CODE.fullmatch(code)}
    return dict(sorted(found.items(), key=lambda pair: pair[1]))


def _check_same(tokenizer: Any, inner: Any, ids: Mapping[str, int]) -> None:
    """Raise `SourceError` where a language has another token in the bundle's tokenizer."""
    for code, number in ids.items():
        if inner.id_to_token(number) != tokenizer.convert_ids_to_tokens(number):
            raise SourceError(
                f"the language {code} has the token {number}, which is "
                f"{inner.id_to_token(number)!r} in tokenizer.json",
                hint=_SAVE_HINT,
            )


def _languages(tokenizer: Any, ids: Mapping[str, int]) -> dict[str, Language]:
    def plain(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    before = tokenizer.src_lang
    languages = {}
    try:
        for code, number in ids.items():
            tokenizer.src_lang = code
            languages[code] = Language(_frame(tokenizer, plain, _PROBES), first=number)
    finally:
        tokenizer.src_lang = before
    return languages


def _plain(inner: Any, text: str) -> list[int]:
    return list(inner.encode(text, add_special_tokens=False).ids)


def _frame(tokenizer: Any, plain: Callable[[str], list[int]], texts: tuple[str, ...]) -> Frame:
    """What is around each of these texts, whose own tokens ``plain`` gives. Raises `SourceError`
    where they are not there."""
    frames: set[Frame] | None = None
    for text in texts:
        whole = list(tokenizer(text).input_ids)
        own = plain(text)
        found = {
            Frame(tuple(whole[:start]), tuple(whole[start + len(own) :]))
            for start in range(len(whole) - len(own) + 1)
            if whole[start : start + len(own)] == own
        }
        if not found and tokenizer.unk_token_id in whole:
            continue  # a piece that vocab.json does not have: see `converted`
        frames = found if frames is None else frames & found
        if not frames:
            raise SourceError(
                f"the model's tokenizer cuts {text!r} into other tokens than the tokenizer.json "
                f"made of it: {whole[:12]} beside {own[:12]}",
                hint=_SAVE_HINT,
            )
    if frames is None:
        raise SourceError(
            "the model's tokenizer knows none of the texts that it was tried on",
            hint="is it the model's own?",
        )
    return min(frames, key=lambda frame: len(frame.before))
