"""Answering texts with others: the generator over two sessions of a few lines, the bundle's two
parts, and the tasks."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lepton_edge
from lepton_edge.bundle import Bundle, describe_files
from lepton_edge.bundle.hashing import digest_of
from lepton_edge.errors import BundleError, DeferredError, InferenceError, InputError, SourceError
from lepton_edge.generation.beams import EncoderDecoder, beam_search, greedy
from lepton_edge.generation.decoding import Decoding
from lepton_edge.generation.request import Chunk, Request, TokenStream
from lepton_edge.generation.text_to_text import TextToTextGenerator
from lepton_edge.runtime.source_texts import SourceTexts
from lepton_edge.tasks.base import Facts
from lepton_edge.tasks.summarization import Summarization
from lepton_edge.tasks.text2text_generation import Text2TextGeneration
from lepton_edge.tasks.text_to_text import (
    Frame,
    Language,
    TextToTextConfig,
    TextToTextFacts,
    TextToTextOptions,
    TextToTextParameters,
)
from lepton_edge.tasks.translation import Translation, TranslationOptions, TranslationParameters
from lepton_edge.testing import FakeBackend
from tests.core import test_beams
from tests.core.parts import byte_encoder, rewrite
from tests.core.test_beams import END, PAD, START, decoding_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lepton_edge.backend import Tensors

BAD = 6  # a text with it has logits that are not numbers
MAX_LENGTH = 40


class Encoder(test_beams.Encoder):
    """As that one, and can be closed."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False
        self.texts: list[int] = []

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        self.texts.append(len(feeds["input_ids"]))
        return super().infer(feeds)

    def close(self) -> None:
        self.closed = True


class Decoder(test_beams.Decoder):
    """As that one, and can be closed, held up, or made to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False
        self.entered, self.may_go_on = threading.Event(), threading.Event()
        self.may_go_on.set()
        self.fault: Exception | None = None

    def logits(self, text: Sequence[int], answer: Sequence[int]) -> NDArray[np.float32]:
        found = super().logits(text, answer)
        return np.full_like(found, np.nan) if BAD in text and len(answer) == 3 else found

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        self.entered.set()
        assert self.may_go_on.wait(30)
        if self.fault:
            fault, self.fault = self.fault, None
            raise fault
        return super().infer(feeds)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def opened() -> Iterator[tuple[TextToTextGenerator, Encoder, Decoder]]:
    encoder, decoder = Encoder(), Decoder()
    generator = TextToTextGenerator(encoder, decoder, MAX_LENGTH)
    yield generator, encoder, decoder
    decoder.may_go_on.set()
    generator.close()


Opened = tuple[TextToTextGenerator, Encoder, Decoder]


def asked(text: Sequence[int], rank: int = 0, **options: Any) -> Request:
    decoding = decoding_of(**options)
    return Request(text, decoding.max_new_tokens, decoding=decoding, rank=rank)


def whole(stream: TokenStream) -> list[int]:
    return [token for chunk in stream for token in chunk.tokens]


def alone(text: Sequence[int], **options: Any) -> list[int]:
    """The best answer, by the search itself."""
    model, decoding = EncoderDecoder(test_beams.Encoder(), test_beams.Decoder()), None
    decoding = decoding_of(**options)
    if decoding.num_beams > 1:
        return list(beam_search(model, [text], decoding)[0][0].tokens)
    return [int(step.tokens[0] or 0) for step in greedy(model, [text], decoding)]


# The generator


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(3, 5), min_size=1, max_size=8),
            st.sampled_from([1, 3]),
            st.sampled_from([4, 9]),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_every_request_is_answered_as_it_is_alone(
    wanted: list[tuple[list[int], int, int]],
) -> None:
    generator = TextToTextGenerator(Encoder(), Decoder(), MAX_LENGTH)
    try:
        streams = generator.submit(
            [asked(text, num_beams=beams, max_new_tokens=most) for text, beams, most in wanted]
        )
        for stream, (text, beams, most) in zip(streams, wanted, strict=True):
            assert whole(stream) == alone(text, num_beams=beams, max_new_tokens=most)
    finally:
        generator.close()


def test_greedy_tokens_come_one_by_one_and_beams_whole_with_their_scores(opened: Opened) -> None:
    generator, _, _ = opened
    one, several = generator.submit(
        [asked([3, 4], eos_token_ids=()), asked([3, 4], eos_token_ids=(), num_beams=3)]
    )
    chunks = list(one)
    assert [len(chunk.tokens) for chunk in chunks] == [1] * 5
    assert [chunk.finish_reason for chunk in chunks] == [None] * 4 + ["length"]
    assert [chunk.score for chunk in chunks] == [None] * 5
    (chunk,) = several
    model = EncoderDecoder(test_beams.Encoder(), test_beams.Decoder())
    ((best, *_),) = beam_search(model, [[3, 4]], decoding_of(eos_token_ids=(), num_beams=3))
    assert chunk == Chunk(best.tokens, (), "length", chunk.time, best.score)


def test_texts_with_one_kind_of_search_are_one_batch(opened: Opened) -> None:
    generator, encoder, _ = opened
    texts = [[3] * size for size in (5, 1, 9, 2)]
    streams = generator.submit([asked(text) for text in texts] + [asked([3], max_new_tokens=2)])
    answers = [whole(stream) for stream in streams]
    assert answers[:4] == [alone(text) for text in texts]
    assert sorted(encoder.texts) == [1, 4]


def test_a_batch_has_no_more_rows_than_beams_allow(opened: Opened) -> None:
    generator, encoder, decoder = opened
    texts = [[3, *np.base_repr(place, 3).encode()] for place in range(20)]
    streams = generator.submit([asked(text, num_beams=4) for text in texts])
    assert [whole(stream) for stream in streams] == [alone(text, num_beams=4) for text in texts]
    assert max(encoder.texts) == 8
    assert max(decoder.rows) == 32
    assert sum(encoder.texts) == 20


def test_the_same_text_in_one_call_is_searched_once(opened: Opened) -> None:
    generator, encoder, _ = opened
    options = {"num_beams": 3, "eos_token_ids": ()}
    streams = generator.submit([asked([3, 4], rank, **options) for rank in (0, 1, 2, 0)])
    found = [next(stream) for stream in streams]
    assert encoder.texts == [1]
    assert found[0].tokens == found[3].tokens
    assert len({chunk.tokens for chunk in found}) == 3
    scores = [chunk.score or 0 for chunk in found[:3]]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_text_at_fault_leaves_the_others_theirs(opened: Opened, beams: int) -> None:
    generator, encoder, _ = opened
    options = {"num_beams": beams, "eos_token_ids": (), "max_new_tokens": 9}
    texts = [[3, 4], [3, BAD], [5, 5]]
    first, bad, last = generator.submit([asked(text, **options) for text in texts])
    assert whole(first) == alone(texts[0], **options)
    assert whole(last) == alone(texts[2], **options)
    with pytest.raises(InferenceError, match="not numbers"):
        whole(bad)
    assert encoder.texts == [3]


@pytest.mark.parametrize("beams", [1, 2])
def test_rules_that_leave_no_token_are_a_fault_of_the_text(opened: Opened, beams: int) -> None:
    generator, _, _ = opened
    (stream,) = generator.submit([asked([3], num_beams=beams, suppress_tokens=tuple(range(7)))])
    with pytest.raises(InferenceError, match="every token is forbidden"):
        whole(stream)


def test_a_step_that_fails_ends_its_batch_and_no_other(opened: Opened) -> None:
    generator, _, decoder = opened
    decoder.fault = MemoryError("no room")
    for stream in generator.submit([asked([3]), asked([4])]):
        with pytest.raises(
            InferenceError, match="a step of the model failed: MemoryError: no room"
        ):
            whole(stream)
    (again,) = generator.submit([asked([3])])
    assert whole(again) == alone([3])


@pytest.mark.parametrize("beams", [1, 3])
def test_what_is_cancelled_is_left_out_from_the_next_step_on(opened: Opened, beams: int) -> None:
    generator, _, decoder = opened
    decoder.may_go_on.clear()
    options = {"eos_token_ids": (), "max_new_tokens": 9, "num_beams": beams}
    kept, left = generator.submit([asked(text, **options) for text in ([3], [4])])
    assert decoder.entered.wait(30)
    left.cancel()
    decoder.may_go_on.set()
    assert whole(kept) == alone([3], **options)
    assert whole(left) == []
    assert decoder.rows == [2 * beams] + [beams] * 8


def test_when_nobody_wants_an_answer_the_search_ends(opened: Opened) -> None:
    generator, encoder, decoder = opened
    decoder.may_go_on.clear()
    streams = generator.submit([asked([3], eos_token_ids=(), max_new_tokens=30)])
    assert decoder.entered.wait(30)
    (waiting,) = generator.submit([asked([5])])
    for stream in (*streams, waiting):
        stream.cancel()
    decoder.may_go_on.set()
    (last,) = generator.submit([asked([4])])
    assert whole(last) == alone([4])
    assert encoder.texts == [1, 1], "what waited and was cancelled was never begun"
    assert len(decoder.rows) == 1 + len(alone([4]))


def test_closing_ends_what_runs_and_what_waits(opened: Opened) -> None:
    generator, encoder, decoder = opened
    decoder.may_go_on.clear()
    (running,) = generator.submit([asked([3], eos_token_ids=(), max_new_tokens=30)])
    assert decoder.entered.wait(30)
    (waiting,) = generator.submit([asked([4])])
    closing = threading.Thread(target=generator.close)
    closing.start()
    while not generator._closed:
        pass
    decoder.may_go_on.set()
    closing.join(30)
    assert not closing.is_alive()
    for stream in (running, waiting):
        with pytest.raises(InferenceError, match="the generator is closed"):
            whole(stream)
    assert len(decoder.rows) == 1
    assert encoder.closed
    assert decoder.closed
    with pytest.raises(InferenceError, match="the generator is closed"):
        generator.submit([asked([3])])
    generator.close()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request([3], 5), "the request has no decoding"),
        (asked([3], 1), "rank is 1: a search with num_beams 1 finds 0 to 0"),
        (asked([]), "has no tokens"),
        (asked([3] * 41), "the text has 41 tokens, more than the model's 40"),
        (asked([3], max_new_tokens=41), "max_new_tokens is 41, more than the model's 40"),
        (asked([3], suppress_tokens=(7,)), "suppress_tokens has the token 7"),
    ],
)
def test_what_can_never_be_answered_is_refused_before_anything_begins(
    opened: Opened, request_: Request, message: str
) -> None:
    generator, encoder, _ = opened
    with pytest.raises(InputError, match=message):
        generator.submit([asked([3]), request_])
    assert encoder.texts == []


# A bundle of two parts

CONFIG = TextToTextConfig(
    decoding=Decoding(decoder_start_token_id=START, pad_token_id=PAD, eos_token_ids=(END,)),
    frame=Frame((2,), (3,)),
)


@pytest.fixture
def bundle(
    fake_bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Bundle]:
    """Makes a bundle whose parts the fake backend opens as the sessions above."""
    load = FakeBackend.load

    def opened(
        self: FakeBackend, directory: Path, compiled: Any, device: Any = None, cache: Any = None
    ) -> Any:
        load(self, directory, compiled, device, cache)  # refuses what was not compiled yet
        return Encoder() if directory.name == "encoder" else Decoder()

    monkeypatch.setattr(FakeBackend, "load", opened)

    def make(name: str = "two", *, deferred: bool = False) -> Bundle:
        plain = fake_bundle(name)
        (artifact,) = plain.manifest.artifacts
        folder = plain.path / artifact.directory
        for seed, part in enumerate(("encoder", "decoder")):
            (folder / part).mkdir()
            (folder / part / "fake.json").write_text(json.dumps({"seed": seed}))
        (folder / "fake.json").unlink()
        files = describe_files(plain.path)
        del files["manifest.json"]
        own = {name: file for name, file in files.items() if name.startswith("artifacts/")}
        compiled = msgspec.structs.replace(artifact.compiled, deferred=deferred)
        artifact = msgspec.structs.replace(
            artifact, sha256=digest_of(own), compiled=compiled, decoder=compiled
        )
        return rewrite(
            plain,
            task="text2text-generation",
            task_config=msgspec.to_builtins(CONFIG),
            artifacts=(artifact,),
            files=files,
        )

    return make


def test_a_bundle_of_two_parts_is_opened_and_answers(bundle: Callable[..., Bundle]) -> None:
    made = bundle()
    made.verify()
    with lepton_edge.load(made.path) as model:
        answer = model("w1 w2", max_tokens=6)
        ids = model.prompts.encoder.pieces(["w1 w2"], str)[0]  # type: ignore[attr-defined]
        assert list(answer.tokens) == alone([2, *ids, 3], max_new_tokens=6)
        assert answer.usage.prompt_tokens == len(ids) + 2


def test_both_parts_are_compiled_on_the_device(
    bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bundle(deferred=True)
    with pytest.raises(DeferredError, match="it was not compiled for FAKE yet"):
        lepton_edge.load(made.path)
    shares: list[float] = []
    done = lepton_edge.finalize(made.path, progress=lambda share, step: shares.append(share))
    assert done is not None
    assert done.compiled
    assert shares == sorted(shares)
    assert {0.0, 0.5, 1.0} <= set(shares)
    assert {path.parent.name for path in Path(done.cache).rglob("fake.engine")} == {
        "encoder",
        "decoder",
    }
    again = lepton_edge.finalize(made.path)
    assert again == msgspec.structs.replace(done, compiled=False)
    with lepton_edge.load(made.path) as model:
        assert model("w1").tokens


def test_one_part_that_was_compiled_is_not_enough(bundle: Callable[..., Bundle]) -> None:
    made = bundle(deferred=True)
    done = lepton_edge.finalize(made.path)
    assert done is not None
    (Path(done.cache) / "decoder" / "fake.engine").unlink()
    with pytest.raises(DeferredError):
        lepton_edge.load(made.path)
    again = lepton_edge.finalize(made.path)
    assert again is not None
    assert again.compiled


def test_a_decoding_that_cannot_be_is_a_bundles_fault(bundle: Callable[..., Bundle]) -> None:
    made = bundle()
    config = msgspec.to_builtins(CONFIG)
    config["decoding"]["num_beams"] = 0
    made = rewrite(made, task_config=config)
    with pytest.raises(BundleError, match=r"task_config does not fit .*num_beams is 0"):
        lepton_edge.load(made.path)


# From a text to tokens


def reader(folder: Path, *, length: int = 12, **changes: Any) -> SourceTexts:
    task = Text2TextGeneration(replace(CONFIG, **changes))
    return SourceTexts(task, byte_encoder(folder), length)


def test_a_text_gets_the_models_words_and_tokens(tmp_path: Path) -> None:
    plain, prefixed = reader(tmp_path), reader(tmp_path, prefix="go: ")
    request = prefixed.read("hi", TextToTextParameters(), 1).requests[0]
    (ids,) = plain.encoder.pieces(["go: hi"], str)
    assert list(request.prompt) == [2, *ids, 3]
    with pytest.raises(InputError, match="text 3 is empty"):
        prefixed.read(" ", TextToTextParameters(), 3)


def test_what_is_cut_is_the_texts_end_and_not_what_stands_around_it(tmp_path: Path) -> None:
    found = reader(tmp_path)
    (ids,) = found.encoder.pieces(["abcdefghijkl"], str)
    prompt = found.read("abcdefghijkl", TextToTextParameters(), 1)
    assert list(prompt.requests[0].prompt) == [2, *ids[:10], 3]
    answer = prompt.answer()
    answer.cancel()
    assert answer.completion().truncated
    fits = found.read("abcdefghij", TextToTextParameters(), 1)
    assert list(fits.requests[0].prompt) == [2, *ids[:10], 3]


def test_answers_are_no_longer_than_the_model_takes(tmp_path: Path) -> None:
    found = reader(tmp_path, decoding=replace(CONFIG.decoding, min_new_tokens=50))
    decoding = found.read("a", TextToTextParameters(), 1).requests[0].decoding
    assert decoding is not None
    assert (decoding.min_new_tokens, decoding.max_new_tokens) == (12, 12)
    with pytest.raises(InputError, match="max_tokens is 13; an answer of this bundle has up to 12"):
        found.read("a", TextToTextParameters(max_tokens=13), 1)


# The tasks

GENERATION = {"decoder_start_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "num_beams": 2}
T5 = {
    "summarization": {"prefix": "summarize: ", "max_length": 31, "min_length": 11, "num_beams": 4},
    "translation_en_to_de": {"prefix": "to German: ", "max_length": 300},
    "translation_en_to_fr": {"prefix": "to French: "},
}


def facts(**changes: Any) -> Facts:
    return Facts(
        text_to_text=TextToTextFacts(generation=GENERATION, frame=Frame((), (2,)), **changes)
    )


def test_a_task_takes_its_own_of_the_models_settings() -> None:
    found = facts(tasks=T5)
    summary = Summarization.configure(TextToTextOptions(), found)
    assert summary.prefix == "summarize: "
    assert summary.decoding.num_beams == 4
    assert (summary.decoding.min_new_tokens, summary.decoding.max_new_tokens) == (10, 30)
    other = Text2TextGeneration.configure(TextToTextOptions(), found)
    assert (other.prefix, other.decoding.num_beams, other.decoding.max_new_tokens) == ("", 2, 256)


def test_a_tasks_own_length_goes_before_the_models() -> None:
    general = {**GENERATION, "max_new_tokens": 999, "min_new_tokens": 3}
    found = Facts(text_to_text=TextToTextFacts(generation=general, tasks=T5))
    decoding = Summarization.configure(TextToTextOptions(), found).decoding
    assert (decoding.min_new_tokens, decoding.max_new_tokens) == (10, 30)


def test_the_recipe_goes_before_both() -> None:
    options = TextToTextOptions(prefix="", max_tokens=5, num_beams=1, early_stopping="never")
    config = Summarization.configure(options, facts(tasks=T5))
    assert config.prefix == ""
    assert (config.decoding.max_new_tokens, config.decoding.num_beams) == (5, 1)
    assert config.decoding.min_new_tokens == 5, "no more than there may be"
    assert config.decoding.early_stopping == "never"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "num_beams is 0"),
        ({"min_tokens": 9, "max_tokens": 4}, "min_new_tokens"),
        ({"repetition_penalty": -1}, "repetition_penalty is -1"),
    ],
)
def test_a_recipe_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        Summarization.configure(TextToTextOptions(**options), facts())


def test_a_source_that_does_not_say_how_it_answers_is_refused() -> None:
    with pytest.raises(SourceError, match="does not say how an answer is written"):
        Translation.configure(TranslationOptions(), Facts())


def test_a_call_may_ask_for_fewer_tokens_than_the_bundles_least() -> None:
    task = Summarization(Summarization.configure(TextToTextOptions(), facts(tasks=T5)))

    def lengths(**parameters: Any) -> tuple[int, int]:
        decoding = task.asked(task.parameters(parameters)).decoding
        return decoding.min_new_tokens, decoding.max_new_tokens

    assert lengths() == (10, 30)
    assert lengths(max_tokens=4) == (4, 4)
    assert lengths(min_tokens=40) == (40, 40)
    with pytest.raises(InputError, match="min_tokens is 5: max_tokens is 4, which is less"):
        lengths(min_tokens=5, max_tokens=4)


def test_t5_is_told_of_a_pair_by_words() -> None:
    task = Translation(Translation.configure(TranslationOptions(), facts(tasks=T5)))
    asked = task.asked(TranslationParameters(source_language="en", target_language="de"))
    assert asked.prefix == "to German: "
    assert asked.decoding.max_new_tokens == 299
    assert task.example() == {"source_language": "en", "target_language": "de"}
    with pytest.raises(
        InputError, match="target_language is 'es', and the model translates into 2"
    ):
        task.asked(TranslationParameters(source_language="en", target_language="es"))
    with pytest.raises(InputError, match="from one language: it has to be told which"):
        task.asked(TranslationParameters())


def test_words_of_the_recipe_are_for_one_pair() -> None:
    options = TranslationOptions(prefix="to Finnish: ")
    task = Translation(Translation.configure(options, facts(tasks=T5)))
    assert task.asked(TranslationParameters()).prefix == "to Finnish: "
    with pytest.raises(InputError, match="translates one language into one other"):
        task.asked(TranslationParameters(target_language="de"))


LANGUAGES = {
    code: Language(Frame((number,), (2,)), first=number)
    for number, code in enumerate(["eng_Latn", "fra_Latn", "deu_Latn", "zho_Hans"], 10)
}


def test_languages_of_the_recipe_are_for_calls_that_do_not_say() -> None:
    options = TranslationOptions(source_language="deu_Latn", target_language="fra_Latn")
    task = Translation(Translation.configure(options, facts(languages=LANGUAGES)))
    plain = task.asked(TranslationParameters())
    assert (plain.frame.before, plain.decoding.forced_bos_token_id) == ((12,), 11)
    other = task.asked(TranslationParameters(target_language="zho_Hans"))
    assert (other.frame.before, other.decoding.forced_bos_token_id) == ((12,), 13)
    with pytest.raises(SourceError, match="target_language is 'xx'"):
        Translation.configure(TranslationOptions(target_language="xx"), facts(languages=LANGUAGES))


@pytest.mark.parametrize(
    ("code", "nearest"),
    [("fr", "fra_Latn"), ("fra", "fra_Latn"), ("DEU_LATN", "deu_Latn"), ("zh_Hans", "zho_Hans")],
)
def test_the_nearest_language_comes_first(code: str, nearest: str) -> None:
    task = Translation(Translation.configure(TranslationOptions(), facts(languages=LANGUAGES)))
    with pytest.raises(InputError) as caught:
        task.asked(TranslationParameters(source_language=code, target_language="deu_Latn"))
    assert f"the nearest: {nearest}," in str(caught.value.hint)


@given(st.text(max_size=30))
@settings(deadline=None, max_examples=100)
def test_no_other_text_is_a_language(code: str) -> None:
    task = Translation(Translation.configure(TranslationOptions(), facts(languages=LANGUAGES)))
    parameters = TranslationParameters(source_language="eng_Latn", target_language=code)
    if code in LANGUAGES:
        assert task.asked(parameters).decoding.forced_bos_token_id
        return
    with pytest.raises(InputError, match="into 4 languages"):
        task.asked(parameters)


def test_the_config_survives_the_manifest() -> None:
    for found in (
        Translation.configure(TranslationOptions(), facts(languages=LANGUAGES)),
        Translation.configure(TranslationOptions(), facts(tasks=T5)),
        Summarization.configure(TextToTextOptions(early_stopping="never"), facts(tasks=T5)),
    ):
        kind = Summarization if type(found) is TextToTextConfig else Translation
        data = msgspec.json.decode(msgspec.json.encode(found))
        assert kind.from_manifest(data).config == found
