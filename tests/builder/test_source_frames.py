"""What stands around a text for each language, and tokenizers made of SentencePiece models: the ids
are those that transformers' own tokenizers give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from lepton_edge.builder.sentences import PROSE, SENTENCES
from lepton_edge.builder.seq2seq import Seq2SeqLM
from lepton_edge.builder.source_frames import Frames, learn_frames
from lepton_edge.builder.tokenizers import (
    from_transformers,
    language_tokenizer,
    tokenizer_from_folder,
    transformers_tokenizer,
)
from lepton_edge.errors import SourceError
from lepton_edge.generation.decoding import Decoding
from lepton_edge.tasks.base import Facts
from lepton_edge.tasks.text_to_text import Frame, TextToTextFacts
from lepton_edge.tasks.translation import Translation, TranslationOptions, TranslationParameters
from tests.text_to_text_models import MARIAN_TARGETS, NLLB_LANGUAGES, TOKENIZERS

pytestmark = pytest.mark.filterwarnings("ignore:Recommended")

VOCABULARY = 1000
TEXTS = (*SENTENCES, *PROSE, "  two  blanks\tand\n a line ", "x" * 60, "ﬁne ½ ①")
GENERATION = {"decoder_start_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}


def learned(tokenizer: Any, **generation: Any) -> tuple[Frames, Any]:
    """The frames, and the tokenizer that a bundle would have."""
    own = from_transformers(tokenizer).json
    frames = learn_frames(tokenizer, own, {**GENERATION, **generation}, VOCABULARY)
    return frames, Tokenizer.from_str(own)


def framed(frame: Frame | None, inner: Any, text: str) -> list[int]:
    assert frame is not None
    ids = inner.encode(text, add_special_tokens=False).ids
    return [*frame.before, *ids, *frame.after]


def nllb(folder: Path, **changes: Any) -> Any:
    """Saved and read again, as a checkpoint's is."""
    made = TOKENIZERS["nllb"](folder)
    made.save_pretrained(folder)
    return type(made).from_pretrained(folder, **changes)


@pytest.mark.parametrize("legacy", [False, True], ids=["before", "legacy, behind"])
def test_nllb_is_told_of_each_language(tmp_path: Path, legacy: bool) -> None:
    tokenizer = nllb(tmp_path, legacy_behaviour=legacy)
    frames, inner = learned(tokenizer)
    assert tuple(frames.languages) == NLLB_LANGUAGES
    for code, language in frames.languages.items():
        tokenizer.src_lang = code
        for text in TEXTS:
            assert framed(language.frame, inner, text) == tokenizer(text).input_ids
        assert language.first == tokenizer.convert_tokens_to_ids(code)
        assert language.frame is not None
        assert bool(language.frame.before) is not legacy
    assert frames.default == frames.languages["eng_Latn"].frame


def test_learning_leaves_the_tokenizer_as_it_was(tmp_path: Path) -> None:
    tokenizer = nllb(tmp_path, src_lang="deu_Latn")
    before = tokenizer("Danke").input_ids
    frames, _ = learned(tokenizer)
    assert tokenizer("Danke").input_ids == before
    assert frames.source_language == "deu_Latn"


def test_mbart_and_m2m100_are_told_of_each_language(tmp_path: Path) -> None:
    for tokenizer in (TOKENIZERS["mbart"](tmp_path), TOKENIZERS["m2m_100"](tmp_path)):
        frames, inner = learned(tokenizer)
        assert len(frames.languages) > 20
        for code, language in frames.languages.items():
            tokenizer.src_lang = code
            for text in TEXTS[:3]:
                assert framed(language.frame, inner, text) == tokenizer(text).input_ids
            inputs = (
                tokenizer._build_translation_inputs("a", src_lang=code, tgt_lang=code)
                if (hasattr(tokenizer, "get_lang_id"))
                else {"forced_bos_token_id": tokenizer.convert_tokens_to_ids(code)}
            )
            assert language.first == inputs["forced_bos_token_id"]


def test_a_model_that_starts_with_the_language_is_told_so(tmp_path: Path) -> None:
    tokenizer = TOKENIZERS["mbart"](tmp_path)
    romanian, german = tokenizer.convert_tokens_to_ids(["ro_RO", "de_DE"])
    frames, _ = learned(tokenizer, decoder_start_token_id=romanian)
    assert frames.target_language == "ro_RO"
    assert (frames.languages["de_DE"].start, frames.languages["de_DE"].first) == (german, None)
    config = Translation.configure(TranslationOptions(source_language="en_XX"), facts(frames))
    task = Translation(config)
    assert task.asked(TranslationParameters()).decoding.decoder_start_token_id == romanian
    asked = task.asked(TranslationParameters(target_language="de_DE"))
    assert asked.decoding.decoder_start_token_id == german
    assert asked.decoding.forced_bos_token_id is None


def test_a_first_token_that_is_always_forced_is_the_usual_language(tmp_path: Path) -> None:
    tokenizer = TOKENIZERS["mbart"](tmp_path)
    english = tokenizer.convert_tokens_to_ids("en_XX")
    frames, _ = learned(tokenizer, forced_bos_token_id=english)
    assert frames.target_language == "en_XX"


def facts(frames: Frames) -> Facts:
    return Facts(
        text_to_text=TextToTextFacts(
            generation=GENERATION,
            frame=frames.default,
            languages=frames.languages,
            source_language=frames.source_language,
            target_language=frames.target_language,
        )
    )


def test_tokens_that_the_model_does_not_have_are_no_languages(tmp_path: Path) -> None:
    tokenizer = nllb(tmp_path)
    size = tokenizer.convert_tokens_to_ids(NLLB_LANGUAGES[2])
    frames = learn_frames(tokenizer, from_transformers(tokenizer).json, GENERATION, size)
    assert tuple(frames.languages) == NLLB_LANGUAGES[:2]


def test_a_tokenizer_of_one_language_has_a_frame_and_no_languages(tmp_path: Path) -> None:
    tokenizer = TOKENIZERS["bart"](tmp_path)
    frames, inner = learned(tokenizer)
    assert frames == Frames(Frame((0,), (2,)))
    assert framed(frames.default, inner, "Hello.") == tokenizer("Hello.").input_ids


def test_another_tokenizer_in_its_place_is_refused(tmp_path: Path) -> None:
    other = from_transformers(TOKENIZERS["t5"](tmp_path)).json
    with pytest.raises(SourceError, match=r"cuts 'Hello\.' into other tokens"):
        learn_frames(TOKENIZERS["bart"](tmp_path), other, GENERATION, VOCABULARY)


def test_the_class_that_a_folder_names_is_taken(tmp_path: Path) -> None:
    """transformers gives a tokenizer of no class in particular for NLLB's model type."""
    from tests.text_to_text_models import save_text_to_text

    save_text_to_text(tmp_path, "nllb")
    plain = transformers_tokenizer(tmp_path)
    assert not hasattr(plain, "src_lang")
    found = language_tokenizer(tmp_path, plain)
    assert type(found).__name__ == "NllbTokenizer"
    assert language_tokenizer(tmp_path, found) is found


# Tokenizers over SentencePiece models


@pytest.fixture(scope="module", params=["marian", "marian-many", "m2m_100"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Any]:
    """transformers' own, and the one that a bundle has."""
    folder = tmp_path_factory.mktemp("tokenizer")
    TOKENIZERS[request.param](folder).save_pretrained(folder)
    own = transformers_tokenizer(folder)
    return own, Tokenizer.from_str(tokenizer_from_folder(folder).json)


def test_texts_are_cut_as_transformers_cuts_them(pair: tuple[Any, Any]) -> None:
    tokenizer, inner = pair
    for text in TEXTS:
        expected = tokenizer(text, add_special_tokens=False).input_ids
        assert inner.encode(text, add_special_tokens=False).ids == expected
    assert len({*inner.encode(PROSE[0]).ids}) > 30, "not all unknown"


def test_answers_are_read_as_transformers_reads_them(pair: tuple[Any, Any]) -> None:
    tokenizer, inner = pair
    tokenizer.tgt_lang = "fr"  # which M2M100 has to know
    for text in PROSE:
        # Marian's targets are of the other model, trained on texts in reverse.
        ids = tokenizer(text_target=text[::-1], add_special_tokens=False).input_ids
        around = tokenizer(text_target=text[::-1]).input_ids
        assert inner.decode(ids) == inner.decode(around)
        assert inner.decode(ids) == tokenizer.decode(ids, skip_special_tokens=True)


def test_what_an_answer_should_be_is_cut_as_the_models_own_labels(tmp_path: Path) -> None:
    for family, language in (("marian", None), ("m2m_100", "fr"), ("nllb", "fra_Latn")):
        tokenizer = TOKENIZERS[family](tmp_path / family)
        tokenizer.tgt_lang = language
        first = tokenizer(text_target="a").input_ids[0] if language else None
        decoding = Decoding(
            decoder_start_token_id=0,
            pad_token_id=1,
            eos_token_ids=(tokenizer.eos_token_id,),
            forced_bos_token_id=first,
        )
        found = Seq2SeqLM(None, tokenizer).answer(PROSE[0][:60], decoding)
        assert found == tokenizer(text_target=PROSE[0][:60]).input_ids


def test_a_code_before_a_text_is_a_token(tmp_path: Path) -> None:
    tokenizer = TOKENIZERS["marian-many"](tmp_path)
    frames, inner = learned(tokenizer)
    assert tuple(frames.languages) == MARIAN_TARGETS
    assert frames.default == Frame((), (tokenizer.eos_token_id,))
    expected = tokenizer(">>por<< How are you?").input_ids
    assert inner.encode(">>por<< How are you?").ids == expected[:-1]
    task = Translation(Translation.configure(TranslationOptions(), facts(frames)))
    asked = task.asked(TranslationParameters(target_language="por"))
    assert framed(asked.frame, inner, "How are you?") == expected


def test_a_piece_of_bpe_that_the_vocabulary_lacks_is_refused(tmp_path: Path) -> None:
    tokenizer = TOKENIZERS["m2m_100"](tmp_path)
    del tokenizer.encoder["th"]
    with pytest.raises(SourceError, match=r"vocab\.json has no 'th', a piece of"):
        from_transformers(tokenizer)


def test_a_file_that_is_no_sentencepiece_model_is_refused(tmp_path: Path) -> None:
    tokenizer = TOKENIZERS["m2m_100"](tmp_path)
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"\xff\xff\xff\xff")
    with pytest.raises(SourceError, match="is not a SentencePiece model"):
        from_transformers(tokenizer)
