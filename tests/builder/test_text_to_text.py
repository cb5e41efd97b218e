"""Models that answer a text with another, from a checkpoint's folder to an answer: built, opened,
asked. What they answer is what transformers' own `generate` does, over its own tokenizer."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import lepton_edge
from lepton_edge import Completion, GenerativeModel, Recipe
from lepton_edge.bundle import Bundle, open_bundle
from lepton_edge.errors import (
    BundleError,
    InferenceError,
    InputError,
    IntegrityError,
    ParityError,
    RecipeError,
    UnsupportedModelError,
)
from tests.core.parts import fails, flip_byte, invoke, rewrite
from tests.text_to_text_models import (
    LENGTH,
    MORE,
    NLLB_LANGUAGES,
    T5_TASKS,
    save_text_to_text,
)

pytest.importorskip("lepton_edge_openvino", reason="the OpenVINO backend is not installed")

# transformers recommends a package for what it does not do here.
pytestmark = pytest.mark.filterwarnings("ignore:Recommended")

TEXTS = ["Where is my order?", "a", "The lamp is blue, the switch is behind the door.", "Thanks."]
TASKS = {
    "t5": "summarization",
    "nllb": "translation",
    "marian-many": "translation",
    "bart": None,  # what its architecture says
}
# One layer of each: the export takes most of the time.
LAYERS: dict[str, dict[str, int]] = {
    "t5": {"num_layers": 1, "num_decoder_layers": 1},
    "bart": {"decoder_layers": 1},
}
PARAMETERS: dict[str, dict[str, Any]] = {
    "t5": {},
    "nllb": {"source_language": "deu_Latn", "target_language": "fra_Latn"},
    "marian-many": {"target_language": "deu"},
    "bart": {},
}


@dataclass
class Case:
    """A checkpoint, the bundle that was built of it, and the bundle opened."""

    family: str
    folder: Path
    bundle: Bundle
    model: GenerativeModel

    @property
    def parameters(self) -> dict[str, Any]:
        """What every call has to say."""
        return PARAMETERS[self.family]

    def theirs(self, text: str, **options: Any) -> tuple[list[list[int]], list[float]]:
        """transformers' answers to a text, and their scores where there are some."""
        import torch
        import transformers

        original = transformers.AutoModelForSeq2SeqLM.from_pretrained(self.folder)
        tokenizer = self.tokenizer()
        if self.family == "t5":
            text = T5_TASKS["summarization"]["prefix"] + text
            own = dict(T5_TASKS["summarization"], max_new_tokens=None)
            options = {name: value for name, value in own.items() if name != "prefix"} | options
        elif self.family == "nllb":
            options["forced_bos_token_id"] = tokenizer.convert_tokens_to_ids("fra_Latn")
        elif self.family == "marian-many":
            text = f">>deu<<{text}"
        found = original.generate(
            **tokenizer(text, return_tensors="pt"),
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
            **options,
        )
        ends = tokenizer.eos_token_id
        with torch.no_grad():
            answers = [_cut(row[1:], ends) for row in found.sequences.tolist()]
        return answers, [float(score) for score in found.get("sequences_scores", ())]

    def tokenizer(self) -> Any:
        """transformers' own."""
        import transformers

        if self.family == "nllb":
            return transformers.NllbTokenizer.from_pretrained(self.folder, src_lang="deu_Latn")
        return transformers.AutoTokenizer.from_pretrained(self.folder)


def _cut(answer: list[int], end: int) -> list[int]:
    return answer[: answer.index(end) + 1] if end in answer else answer


def recipe(folder: Path, task: str | None, **changes: Any) -> Recipe:
    values = {"name": "tiny", "source": {"path": str(folder)}, "precision": "fp32", "task": task}
    return Recipe.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Case]]:
    """Made when they are first asked for."""
    made: dict[str, Case] = {}
    yield made
    for case in made.values():
        case.model.close()


@pytest.fixture
def case_of(cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> Any:
    def case(family: str) -> Case:
        if family not in cases:
            folder = tmp_path_factory.mktemp("models") / family
            # T5's lengths are those of its tasks.
            generation = {"max_new_tokens": None} if family == "t5" else {}
            save_text_to_text(folder, family, generation=generation, **LAYERS.get(family, {}))
            bundle = lepton_edge.build(
                recipe(folder, TASKS[family]), output=tmp_path_factory.mktemp("bundles")
            )
            model = lepton_edge.load(bundle.path)
            assert isinstance(model, GenerativeModel)
            cases[family] = Case(family, folder, bundle, model)
        return cases[family]

    return case


@pytest.fixture(params=TASKS)
def case(request: pytest.FixtureRequest, case_of: Any) -> Case:
    found: Case = case_of(request.param)
    return found


@pytest.fixture
def nllb(case_of: Any) -> Case:
    found: Case = case_of("nllb")
    return found


@pytest.fixture
def bart(case_of: Any) -> Case:
    found: Case = case_of("bart")
    return found


# Answers


@pytest.mark.parametrize("beams", [1, 4])
def test_texts_of_mixed_lengths_are_answered_as_transformers_does(case: Case, beams: int) -> None:
    answers = case.model(TEXTS, num_beams=beams, **case.parameters)
    tokenizer = case.tokenizer()
    assert len({answer.text for answer in answers}) > 1, "or a model that reads nothing would pass"
    for text, answer in zip(TEXTS, answers, strict=True):
        (expected,), scores = case.theirs(text, num_beams=beams)
        assert list(answer.tokens) == expected
        assert answer.text == tokenizer.decode(expected, skip_special_tokens=True)
        assert answer.finish_reason == (
            "stop" if expected[-1] == tokenizer.eos_token_id else "length"
        )
        assert answer.usage.completion_tokens == len(expected)
        assert answer.usage.prompt_tokens >= len(tokenizer(text).input_ids)
        if beams > 1:
            assert answer.score == pytest.approx(scores[0], abs=1e-4)


def test_each_text_alone_gives_the_same(case: Case) -> None:
    together = case.model(TEXTS, **case.parameters)
    for text, answer in zip(TEXTS, together, strict=True):
        alone = case.model(text, **case.parameters)
        assert isinstance(alone, Completion)
        assert alone.tokens == answer.tokens


def test_several_answers_are_ranked_by_their_scores(nllb: Case) -> None:
    asked = {"num_beams": 4, "num_return_sequences": 3, **nllb.parameters}
    answer = nllb.model(TEXTS[0], **asked)
    expected, scores = nllb.theirs(TEXTS[0], num_beams=4, num_return_sequences=3)
    assert [list(choice.tokens) for choice in answer.choices] == expected
    assert [choice.score for choice in answer.choices] == pytest.approx(scores, abs=1e-4)
    assert answer.text == answer.choices[0].text
    both = nllb.model(TEXTS[:2], **asked)
    assert [len(each.choices) for each in both] == [3, 3]
    assert both[0].choices[2].tokens == answer.choices[2].tokens


def test_a_greedy_stream_gives_the_whole_answer_piece_by_piece(case: Case) -> None:
    greedy = {"num_beams": 1, **case.parameters}
    whole = case.model(TEXTS[0], **greedy)
    with case.model.stream(TEXTS[0], **greedy) as stream:
        deltas = list(stream)
    assert len(deltas) > 3
    assert "".join(delta.text for delta in deltas) == whole.text
    assert deltas[-1].finish_reason == whole.finish_reason
    assert stream.completion.tokens == whole.tokens
    assert stream.completion.timing.first_token is not None


def test_a_beam_search_is_one_delta(bart: Case) -> None:
    (delta,) = bart.model.stream(TEXTS[0], num_beams=3)
    assert delta.text == bart.model(TEXTS[0], num_beams=3).text
    assert delta.finish_reason is not None


def test_another_language_gives_another_answer(nllb: Case) -> None:
    def answer(source: str, target: str) -> Completion:
        found = nllb.model("Danke", source_language=source, target_language=target)
        assert isinstance(found, Completion)
        return found

    answers = {
        (source, target): answer(source, target).text
        for source in NLLB_LANGUAGES[:2]
        for target in NLLB_LANGUAGES[:2]
    }
    assert len(set(answers.values())) == 4
    assert "fra_Latn" not in answer("deu_Latn", "fra_Latn").text


def test_the_rules_of_a_search_are_a_calls_to_change(bart: Case) -> None:
    short = bart.model(TEXTS[0], max_tokens=5)
    assert short.usage.completion_tokens == 5
    assert short.finish_reason == "length"
    loose = bart.model(TEXTS[0], no_repeat_ngram_size=0)
    (expected,), _ = bart.theirs(TEXTS[0], no_repeat_ngram_size=0, num_beams=1)
    assert list(loose.tokens) == expected
    assert loose.tokens != bart.model(TEXTS[0]).tokens
    penalized = bart.model(TEXTS[0], no_repeat_ngram_size=0, repetition_penalty=1.8)
    (expected,), _ = bart.theirs(TEXTS[0], no_repeat_ngram_size=0, repetition_penalty=1.8)
    assert list(penalized.tokens) == expected
    stop = bart.model(TEXTS[0]).text[3]
    stopped = bart.model(TEXTS[0], stop=[stop])
    assert stop not in stopped.text
    assert stopped.finish_reason == "stop"


def test_a_summary_is_as_long_as_the_model_says_where_nobody_else_does(case_of: Any) -> None:
    model = case_of("t5").model
    decoding = model.task.config.decoding
    own = T5_TASKS["summarization"]
    assert model.task.config.prefix == own["prefix"]
    assert (decoding.min_new_tokens, decoding.max_new_tokens) == (8, 18)  # less the start token
    assert (decoding.num_beams, decoding.length_penalty) == (4, 2.0)
    assert model(TEXTS[2]).usage.completion_tokens >= 8
    assert model(TEXTS[2], max_tokens=3).usage.completion_tokens == 3


def test_awaited_submitted_and_repeated_it_is_the_same(bart: Case) -> None:
    whole = bart.model(TEXTS[0])
    assert asyncio.run(bart.model.agenerate(TEXTS[0])).tokens == whole.tokens
    assert bart.model.submit(TEXTS[0]).result(60).tokens == whole.tokens
    assert [each.tokens for each in bart.model([TEXTS[0]] * 3)] == [whole.tokens] * 3
    assert bart.model([]) == []


# Bad input


@pytest.mark.parametrize(
    ("given", "parameters", "message", "hint"),
    [
        ("", {}, "text 1 is empty", "leave empty texts out"),
        (["a", " "], {}, "text 2 is empty", "leave empty texts out"),
        (5, {}, "text 1 is of type int", None),
        ([{"role": "user", "content": "a"}], {}, "text 1 is of type dict", None),
        ("a", {"top_q": 1}, "translation has no option 'top_q'", "it has max_tokens"),
        ("a", {"temperature": 1}, "'temperature': it searches for the likeliest", "num_beams"),
        ("a", {"max_tokens": 0}, "max_tokens is 0", None),
        ("a", {"max_tokens": 5000}, "max_tokens is 5,000; .* up to 96", "at most 96"),
        ("a", {"min_tokens": -1}, "min_tokens is -1", None),
        ("a", {"min_tokens": 9, "max_tokens": 4}, "min_tokens is 9: max_tokens is 4", None),
        ("a", {"num_beams": 33}, "num_beams is 33: it is at most 32", None),
        ("a", {"num_return_sequences": 2}, "num_return_sequences is 2: .* num_beams 1", None),
        ("a", {"early_stopping": "soon"}, "early_stopping is 'soon'", None),
        ("a", {"repetition_penalty": 0}, "repetition_penalty is 0", None),
        ("a", {"target_language": "fra_Cyrl"}, "target_language is 'fra_Cyrl'", "fra_Latn"),
        ("a", {"source_language": "de"}, "from 4 languages of other names", "nearest: deu_Latn"),
        ("a", {"source_language": 3}, "source_language is 3: it is the code", None),
    ],
)
def test_what_cannot_be_asked_is_refused(
    nllb: Case, given: Any, parameters: dict[str, Any], message: str, hint: str | None
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        nllb.model(given, **{**nllb.parameters, **parameters})
    assert hint is None or hint in str(caught.value.hint)


def test_a_language_that_nobody_named_is_asked_for(nllb: Case) -> None:
    with pytest.raises(InputError, match="translates into 4 languages: it has to be told which"):
        nllb.model("a", source_language="eng_Latn")
    # The folder was saved with English texts in mind.
    assert nllb.model("a", target_language="fra_Latn").text


def test_a_model_that_is_not_told_the_source_refuses_it(case_of: Any) -> None:
    model = case_of("marian-many").model
    with pytest.raises(InputError, match="source_language is 'en': the model is not told that"):
        model("a", source_language="en", target_language="deu")
    with pytest.raises(InputError, match=r"target_language is 'de'.*3 languages") as caught:
        model("a", target_language="de")
    assert "nearest: deu" in str(caught.value.hint)


def test_one_bad_text_leaves_the_others_their_answers(bart: Case) -> None:
    first, refused, last = bart.model.generate(["good", "", "good"], errors="return")
    assert isinstance(refused, InputError)
    assert first.tokens == last.tokens == bart.model("good").tokens
    with pytest.raises(InputError, match="text 2 is empty"):
        bart.model(["good", ""])


def test_a_long_text_loses_its_end_or_is_refused(bart: Case, tmp_path: Path) -> None:
    long = "y" * 200
    cut = bart.model(long)
    assert cut.truncated
    assert cut.usage.prompt_tokens == LENGTH
    fitting = bart.model("y" * (LENGTH - 2))
    assert not fitting.truncated
    assert fitting.tokens == cut.tokens
    strict = copied(bart.bundle, tmp_path, on_long_text="refuse")
    with (
        lepton_edge.load(strict.path) as model,
        pytest.raises(InputError, match="text 2 has 202 tokens; this bundle takes up to 96"),
    ):
        model(["short", long])


def copied(bundle: Bundle, folder: Path, **text: Any) -> Bundle:
    """The bundle in another place, with another way to take texts."""
    import msgspec

    shutil.copytree(bundle.path, folder / "copy")
    other = open_bundle(folder / "copy")
    return rewrite(other, text=msgspec.structs.replace(other.manifest.text, **text))


def test_other_ways_to_generate_are_refused(bart: Case) -> None:
    with pytest.raises(InputError, match="text2text-generation has no draft"):
        lepton_edge.load(bart.bundle.path, draft="x")
    with pytest.raises(InputError, match="stream gives one answer, and 2 were asked for"):
        bart.model.stream("a", num_beams=2, num_return_sequences=2)
    with pytest.raises(InputError, match="stream takes one prompt"):
        bart.model.stream(["a", "b"])
    with pytest.raises(InputError, match="bench is not for text2text-generation"):
        lepton_edge.bench(bart.bundle.path)


# Ends


def test_a_stream_that_is_left_leaves_the_others_alone(bart: Case) -> None:
    expected = bart.model(TEXTS[1], max_tokens=60)
    stream = bart.model.stream(TEXTS[0], max_tokens=90)
    next(stream)
    stream.cancel()
    assert stream.completion.finish_reason == "cancelled"
    assert stream.completion.usage.completion_tokens < 90
    assert list(stream) == []
    assert bart.model(TEXTS[1], max_tokens=60).tokens == expected.tokens


def test_closing_ends_what_runs(bart: Case) -> None:
    model = lepton_edge.load(bart.bundle.path)
    # Each another search, so that they wait for each other.
    running = [model.stream(TEXTS[0], max_tokens=length) for length in range(50, 90)]
    next(running[0])
    model.close()
    model.close()
    with pytest.raises(InferenceError, match="closed"):
        running[-1].read()
    with pytest.raises(InferenceError, match="closed"):
        model("a")


# The bundle


def test_the_bundle_has_two_parts(case: Case) -> None:
    (artifact,) = case.bundle.manifest.artifacts
    assert artifact.decoder is not None
    assert [part.directory for part in artifact.parts] == [
        "artifacts/intel-cpu/encoder",
        "artifacts/intel-cpu/decoder",
    ]
    names = {spec.name for spec in artifact.decoder.inputs}
    assert {"input_ids", "encoder_attention_mask", "past.0.key", "cross.0.value"} <= names
    case.bundle.verify()
    assert lepton_edge.finalize(case.bundle.path) is None
    assert artifact.parity is not None
    assert artifact.parity.max_error < 1e-3
    assert artifact.generation is not None
    assert artifact.generation.equal_tokens == 1.0
    assert artifact.generation.perplexity == pytest.approx(
        artifact.generation.original_perplexity, rel=1e-4
    )
    assert artifact.generation.tokens > 50


def test_inspect_shows_it(bart: Case) -> None:
    shown = invoke("inspect", bart.bundle.path)
    assert shown.exit_code == 0
    assert "text2text-generation" in shown.stdout
    assert "equal greedy tokens" in shown.stdout
    assert "artifacts/intel-cpu/decoder/model.xml" in shown.stdout


def test_inspect_counts_the_languages(nllb: Case) -> None:
    assert "translation, 4 languages" in invoke("inspect", nllb.bundle.path).stdout


def test_a_damaged_decoder_is_not_opened(bart: Case, tmp_path: Path) -> None:
    other = copied(bart.bundle, tmp_path)
    flip_byte(other.path / "artifacts/intel-cpu/decoder/model.bin")
    with pytest.raises(IntegrityError, match=r"decoder/model\.bin"):
        lepton_edge.load(other.path)


def test_a_bundle_without_its_decoder_is_no_bundle(bart: Case, tmp_path: Path) -> None:
    import msgspec

    other = copied(bart.bundle, tmp_path)
    (artifact,) = other.manifest.artifacts
    rewrite(other, artifacts=(msgspec.structs.replace(artifact, decoder=None),))
    with pytest.raises(BundleError, match="has no decoder for intel-cpu"):
        lepton_edge.load(other.path)


def test_the_same_model_gives_the_same_bundle(case_of: Any, tmp_path: Path) -> None:
    case = case_of("marian-many")
    again = lepton_edge.build(recipe(case.folder, "translation"), output=tmp_path)
    assert again.manifest.files == case.bundle.manifest.files


# The build


def test_small_weights_are_measured_on_the_recipes_pairs(case_of: Any, tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    rows = [{"source": text, "target": text.lower()} for text in TEXTS]
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    built = lepton_edge.build(
        recipe(
            case_of("marian-many").folder,
            "translation",
            precision="int8-weights",
            quality={
                "data": str(data),
                "columns": {"text": "source"},
                "parameters": {"target_language": "por"},
                "max_perplexity_ratio": 2.0,
            },
        ),
        output=tmp_path / "out",
    )
    (artifact,) = built.manifest.artifacts
    assert artifact.compiled.precision == "int8"
    assert artifact.decoder is not None
    assert artifact.decoder.precision == "int8"
    found = artifact.generation
    assert found is not None
    assert found.data == "pairs.jsonl"
    assert found.max_perplexity_ratio == 2.0
    assert found.original_perplexity is not None
    assert found.perplexity != found.original_perplexity
    tokenizer = case_of("marian-many").tokenizer()
    targets = tokenizer(text_target=[row["target"] for row in rows]).input_ids
    assert found.tokens == sum(map(len, targets))
    with lepton_edge.load(built.path) as model:
        assert model("Thanks.", target_language="por").text


def test_a_limit_of_the_recipe_fails_the_build(case_of: Any, tmp_path: Path) -> None:
    strict = recipe(
        case_of("marian-many").folder, "translation", parity={"max_error": 1e-12, "sample": ["a b"]}
    )
    with pytest.raises(ParityError, match=r"max_error is .*, and 1e-12 is the limit"):
        lepton_edge.build(strict, output=tmp_path / "out")
    assert not (tmp_path / "out" / "tiny-1.0.0").exists()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"precision": "int8"}, RecipeError, "is not built with precision int8"),
        ({"quality": {"metric": "bleu"}}, RecipeError, "has no metric 'bleu'"),
        ({"task": "text-classification"}, UnsupportedModelError, "is for translation, summ"),
        ({"task": "text-generation"}, UnsupportedModelError, "is for translation, summ"),
        ({"task_options": {"target_language": "xx"}}, lepton_edge.LeptonError, "'xx'"),
        ({"task_options": {"num_beams": 0}}, lepton_edge.LeptonError, "num_beams is 0"),
        ({"text": {"max_length": 4000}}, lepton_edge.LeptonError, "takes up to 96 tokens"),
        (
            {"quality": {"parameters": {"target_language": "xx"}}},
            InputError,
            "target_language is 'xx'",
        ),
    ],
)
def test_a_recipe_that_asks_in_vain_is_refused(
    case_of: Any, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    wanted = {"task": "translation", **changes}
    with pytest.raises(error, match=message):
        lepton_edge.build(
            recipe(case_of("marian-many").folder, wanted.pop("task"), **wanted), output=tmp_path
        )


def test_an_architecture_that_is_not_supported_says_which_are(case_of: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(case_of("bart").folder, folder)
    config = json.loads((folder / "config.json").read_text())

    def refusal(**changes: Any) -> str:
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(UnsupportedModelError) as caught:
            lepton_edge.build(folder, output=tmp_path / "out")
        return caught.value.message

    pegasus = refusal(model_type="pegasus", architectures=["PegasusForConditionalGeneration"])
    assert "PegasusForConditionalGeneration (model_type 'pegasus') cannot be exported" in pegasus
    assert "M2M100 (NLLB), Marian, mBART, mT5, T5" in pegasus
    labels = refusal(architectures=["BartForSequenceClassification"])
    assert "cannot be exported for text-classification; supported: ALBERT" in labels


def test_options_of_the_recipe_are_the_bundles_defaults(case_of: Any, tmp_path: Path) -> None:
    """Without building: what the manifest would say."""
    from lepton_edge.builder.huggingface import load_folder
    from lepton_edge.builder.plan import Plan

    wanted = recipe(
        case_of("nllb").folder,
        "translation",
        task_options={
            "source_language": "fin_Latn",
            "target_language": "deu_Latn",
            "max_tokens": 7,
            "num_beams": 2,
            "stop": ["x"],
        },
        text={"max_length": 50},
    )
    plan = Plan.of(wanted, load_folder(case_of("nllb").folder, wanted))
    asked = plan.task.asked(plan.task.parameters({}))  # type: ignore[attr-defined]
    tokenizer = case_of("nllb").tokenizer()
    ids = tokenizer.convert_tokens_to_ids
    assert asked.frame.before == (ids("fin_Latn"),)
    assert asked.decoding.forced_bos_token_id == ids("deu_Latn")
    assert (asked.decoding.max_new_tokens, asked.decoding.num_beams) == (7, 2)
    assert plan.task.config.stop == ("x",)
    assert plan.text.max_length == 50


# The command line


def test_run_answers_texts_streams_and_files(nllb: Case, tmp_path: Path) -> None:
    languages = ["--source-language", "deu_Latn", "--target-language", "fra_Latn"]
    expected = nllb.model(TEXTS[:2], **nllb.parameters)
    one = invoke("run", nllb.bundle.path, TEXTS[0], *languages)
    assert one.exit_code == 0
    assert one.stdout.strip("\n") == expected[0].text.strip("\n")
    streamed = invoke("run", nllb.bundle.path, TEXTS[0], "--stream", *languages)
    assert streamed.stdout.strip("\n") == expected[0].text.strip("\n")
    shown = invoke("run", nllb.bundle.path, *TEXTS[:2], "--json", "--max-tokens", MORE, *languages)
    assert [each["result"]["text"] for each in json.loads(shown.stdout)] == [
        each.text for each in expected
    ]
    source = tmp_path / "texts.jsonl"
    source.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS[:2]))
    output = tmp_path / "answers.jsonl"
    filed = invoke("run", nllb.bundle.path, "--input", source, "-o", output, *languages)
    assert filed.exit_code == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["result_text"] for row in rows] == [each.text for each in expected]


def test_run_names_the_language_that_is_wrong(nllb: Case) -> None:
    said = fails("run", nllb.bundle.path, "a", "--target-language", "fr_FR")
    assert "target_language is 'fr_FR'" in said
    assert "fra_Latn" in said
    assert "has no option 'temperature'" in fails(
        "run", nllb.bundle.path, "a", "--temperature", "1"
    )
