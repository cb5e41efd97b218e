"""Models that generate, from a checkpoint's folder to an answer: built, opened, asked."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lepton_edge
from lepton_edge import Completion, GenerativeModel, Recipe
from lepton_edge.bundle import Bundle, open_bundle
from lepton_edge.errors import (
    BuildError,
    InferenceError,
    InputError,
    LeptonError,
    QualityError,
    RecipeError,
    SourceError,
    UnsupportedModelError,
)
from tests.chat_model import save_chat_model

HELLO = [{"role": "user", "content": "Hello"}]


def recipe(folder: Path, **changes: Any) -> Recipe:
    values = {"name": "tiny", "source": {"path": str(folder)}, "precision": "fp32", **changes}
    return Recipe.model_validate(values)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chat_model(tmp_path_factory.mktemp("models") / "tiny-chat")


@pytest.fixture(scope="module")
def bundle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return lepton_edge.build(recipe(folder), output=tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> Iterator[GenerativeModel]:
    with lepton_edge.load(bundle.path) as opened:
        assert isinstance(opened, GenerativeModel)
        yield opened


def ids_of(model: GenerativeModel, text: str) -> list[int]:
    return model.prompts.encoder.encode([text])[0].ids


def long_answer(model: GenerativeModel) -> int:
    """A seed whose answer to "Once" goes on for a while."""
    for seed in range(50):
        answer = model.generate("Once", max_tokens=30, temperature=1.0, seed=seed)
        if len(answer.tokens) == 30:
            return seed
    raise AssertionError("every answer is short")


def original_tokens(folder: Path, ids: list[int], count: int) -> list[int]:
    import torch
    from transformers import AutoModelForCausalLM

    original = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        found = original.generate(
            torch.tensor([ids]), max_new_tokens=count, do_sample=False, pad_token_id=0
        )
    return [int(token) for token in found[0, len(ids) :]]


# The bundle


def test_the_manifest_says_what_a_call_needs(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert manifest.task == "text-generation"
    assert manifest.task_config["stop_tokens"] == [257, 258]
    assert "<|im_start|>" in manifest.task_config["chat_template"]
    assert manifest.task_config["special_tokens"]["eos_token"] == "<|im_end|>"
    assert manifest.text.max_length == 512
    (artifact,) = manifest.artifacts
    assert artifact.generation is not None
    assert artifact.generation.equal_tokens == 1.0
    assert artifact.generation.perplexity == pytest.approx(
        artifact.generation.original_perplexity, rel=1e-4
    )
    assert artifact.parity.equal_labels == 1.0


def test_a_limit_on_perplexity_fails_the_build(folder: Path, tmp_path: Path) -> None:
    strict = recipe(folder, precision="int4-weights", quality={"min_equal_tokens": 1.0})
    with pytest.raises(QualityError, match="greedy tokens are the original's; 100% are needed"):
        lepton_edge.build(strict, output=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_numbers_fail_the_build(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = save_chat_model(tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BuildError, match="the original's own answers are not numbers"):
        lepton_edge.build(recipe(folder), output=tmp_path / "out")


def test_text_of_ones_own_is_measured_on(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text(json.dumps({"text": "A text of our own, of some length. " * 20}) + "\n")
    built = lepton_edge.build(recipe(folder, quality={"data": str(file)}), output=tmp_path / "out")
    found = built.manifest.artifacts[0].generation
    assert found is not None
    assert found.data == "texts.jsonl"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "int8"}, "not built with precision int8"),
        ({"quality": {"metric": "accuracy"}}, "has no metric 'accuracy'"),
        ({"text": {"max_length": 4096}}, "text.max_length is 4096; the model takes up to 512"),
    ],
)
def test_what_such_a_model_has_not_is_refused(
    folder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((RecipeError, SourceError), match=message):
        lepton_edge.build(recipe(folder, **changes), output=tmp_path)


def test_a_family_that_is_not_supported_says_which_are(tmp_path: Path) -> None:
    folder = save_chat_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "bloom", "architectures": ["BloomForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match=r"BloomForCausalLM.*Llama") as caught:
        lepton_edge.build(recipe(folder), output=tmp_path / "out")
    assert "openvino_ir" in str(caught.value.hint)


def test_an_ir_of_another_exporter_is_built(
    bundle: Bundle, folder: Path, model: GenerativeModel, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    shutil.copytree(folder, foreign)
    (foreign / "model.safetensors").unlink()
    for name in ("openvino_model.xml", "openvino_model.bin"):
        shutil.copy(bundle.path / "artifacts" / "intel-cpu" / name, foreign)
    config = json.loads((foreign / "config.json").read_text())
    config |= {"model_type": "unheard-of"}
    (foreign / "config.json").write_text(json.dumps(config))
    source = {"openvino_ir": str(foreign)}
    built = lepton_edge.build(
        recipe(folder, source=source, precision="auto"), output=tmp_path / "out"
    )
    (artifact,) = built.manifest.artifacts
    assert artifact.parity is None
    assert artifact.generation is not None
    assert artifact.generation.original_perplexity is None
    assert built.manifest.source.kind == "openvino_ir"
    with lepton_edge.load(built.path) as opened:
        answer = opened.generate("Once", max_tokens=5, temperature=0)
    assert answer.usage.prompt_tokens == 4
    with pytest.raises(RecipeError, match="OpenVINO IR, and jetson-orin is for tensorrt"):
        lepton_edge.build(
            recipe(folder, source=source), target="jetson-orin", output=tmp_path / "other"
        )


def test_an_ir_without_its_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"has no openvino_model\.xml"):
        lepton_edge.build(recipe(tmp_path, source={"openvino_ir": str(tmp_path)}), output=tmp_path)


def test_a_model_without_an_end_is_refused(tmp_path: Path) -> None:
    folder = save_chat_model(tmp_path / "model")
    for name in ("config.json", "generation_config.json"):
        values = json.loads((folder / name).read_text())
        values["eos_token_id"] = None
        (folder / name).write_text(json.dumps(values))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer.pop("eos_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    with pytest.raises(SourceError, match="does not say which token ends an answer"):
        lepton_edge.build(recipe(folder), output=tmp_path / "out")


def test_a_chat_template_of_ones_own_is_part_of_the_bundle(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}!")
    (tmp_path / "r.yaml").write_text(
        f"name: mine\nsource: {folder}\nprecision: fp32\ntask: text-generation\n"
        "task_options: {chat_template: mine.jinja, max_tokens: 3, temperature: 0.5}\n"
    )
    built = lepton_edge.build(tmp_path / "r.yaml", output=tmp_path / "out")
    config = built.manifest.task_config
    assert config["chat_template"].endswith("!")
    assert config["sampling"] == {"temperature": 0.5}
    with lepton_edge.load(built.path) as model:
        answer = model.generate(HELLO)
    assert answer.usage.prompt_tokens == len("Hello!")
    assert answer.usage.completion_tokens <= 3


def test_a_damaged_chat_template_fails_the_build(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jinja").write_text("{% for m in %}")
    options = {"chat_template": str(tmp_path / "bad.jinja")}
    with pytest.raises(SourceError, match="chat template cannot be read"):
        lepton_edge.build(
            recipe(folder, task="text-generation", task_options=options), output=tmp_path / "out"
        )


# Answers


def test_a_greedy_answer_is_the_originals(model: GenerativeModel, folder: Path) -> None:
    answer = model.generate("Once upon", max_tokens=24, temperature=0)
    prompt = ids_of(model, "Once upon")
    wanted = original_tokens(folder, prompt, 24)
    assert list(answer.tokens) == wanted[: len(answer.tokens)]
    assert answer.usage.prompt_tokens == len(prompt)
    assert answer.finish_reason == ("stop" if answer.tokens[-1] in (257, 258) else "length")


def test_prompts_are_answered_together_as_alone(model: GenerativeModel) -> None:
    prompts = ["a", "bcdefgh", "some longer text", "x y"]
    together = model(prompts, max_tokens=12, temperature=0)
    alone = [model.generate(each, max_tokens=12, temperature=0) for each in prompts]
    assert [each.tokens for each in together] == [each.tokens for each in alone]


def test_a_stream_is_the_whole_answer_in_pieces(model: GenerativeModel) -> None:
    whole = model.generate("Once", max_tokens=30, temperature=0)
    with model.stream("Once", max_tokens=30, temperature=0) as stream:
        deltas = list(stream)
    assert "".join(delta.text for delta in deltas) == whole.text == stream.completion.text
    assert deltas[-1].finish_reason == whole.finish_reason
    assert stream.completion.tokens == whole.tokens
    assert stream.completion.timing.first_token is not None
    assert 0 < stream.completion.timing.first_token <= stream.completion.timing.total


def test_a_stream_can_be_awaited(model: GenerativeModel) -> None:
    whole = model.generate("Once", max_tokens=20, temperature=0)

    async def read() -> tuple[str, str]:
        async with model.stream("Once", max_tokens=20, temperature=0) as stream:
            text = "".join([delta.text async for delta in stream])
        return text, (await model.agenerate("Once", max_tokens=20, temperature=0)).text

    assert asyncio.run(read()) == (whole.text, whole.text)


def test_a_stream_that_is_left_frees_its_place(model: GenerativeModel) -> None:
    seed = long_answer(model)
    for _ in range(20):
        with model.stream("Once", max_tokens=400, temperature=1.0, seed=seed) as stream:
            next(stream)
        assert stream.completion.finish_reason == "cancelled"
    assert model.generate("Once", max_tokens=3, temperature=0).usage.completion_tokens <= 3


def test_a_stop_string_ends_the_answer_before_it(model: GenerativeModel) -> None:
    whole = model.generate("Once", max_tokens=40, temperature=0).text
    stop = next(letter for letter in whole[4:] if letter.isascii() and letter not in whole[:4])
    answer = model.generate("Once", max_tokens=40, temperature=0, stop=[stop, "never there"])
    assert answer.text == whole[: whole.index(stop)]
    assert answer.finish_reason == "stop"


def test_a_seed_gives_the_same_answer_again(model: GenerativeModel) -> None:
    def answer(seed: int) -> str:
        return str(model.generate("Once", max_tokens=20, temperature=1.0, seed=seed))

    assert answer(7) == answer(7)
    assert len({answer(seed) for seed in range(5)}) > 1


def test_several_answers_to_one_prompt_differ(model: GenerativeModel) -> None:
    answer = model.generate("Once", max_tokens=15, temperature=1.0, seed=3, n=4)
    assert len(answer.choices) == 4
    assert answer.choices[0].text == answer.text
    assert len({each.text for each in answer.choices}) > 1


def test_log_probabilities_are_the_originals(model: GenerativeModel, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    answer = model.generate("Once", max_tokens=6, temperature=0, logprobs=True)
    original = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = [*ids_of(model, "Once"), *answer.tokens]
    with torch.no_grad():
        logits = original(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
    begin = len(ids) - len(answer.tokens)
    for place, found in enumerate(answer.logprobs):
        wanted = float(logits[begin + place - 1, found.token])
        assert found.logprob == pytest.approx(wanted, abs=1e-3)


def test_a_conversation_is_rendered_by_the_template(model: GenerativeModel) -> None:
    answer = model.generate(HELLO, max_tokens=4, temperature=0)
    rendered = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    marks = ["<|im_start|>", "<|im_end|>", "<|im_start|>"]
    assert answer.usage.prompt_tokens == len(rendered) - sum(map(len, marks)) + len(marks)


def test_a_list_of_conversations_is_a_batch(model: GenerativeModel) -> None:
    answers = model([HELLO, [*HELLO, {"role": "assistant", "content": "Hi"}, *HELLO]], max_tokens=3)
    assert len(answers) == 2
    assert answers[1].usage.prompt_tokens > answers[0].usage.prompt_tokens


def test_tools_are_given_to_the_template(model: GenerativeModel) -> None:
    tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}
    plain = model.generate(HELLO, max_tokens=2)
    asked = model.generate(HELLO, max_tokens=2, tools=[tool])
    assert asked.usage.prompt_tokens > plain.usage.prompt_tokens + 40


def test_what_follows_the_mark_in_the_prompt_is_thinking(model: GenerativeModel) -> None:
    answer = model.generate(HELLO, max_tokens=12, temperature=0, thinking=True)
    assert answer.text == ""
    assert answer.thinking


def test_many_threads_share_a_model(model: GenerativeModel) -> None:
    wanted = {text: model.generate(text, max_tokens=10, temperature=0).text for text in "abcdefgh"}
    found: dict[str, str] = {}

    def ask(text: str) -> None:
        found[text] = model.generate(text, max_tokens=10, temperature=0).text

    threads = [threading.Thread(target=ask, args=(text,)) for text in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == wanted


# Bad input


@pytest.mark.parametrize(
    ("given", "parameters", "message"),
    [
        ("", {}, "text 1 is empty"),
        ([], {}, "conversation|messages"),
        ([{"role": "robot", "content": "x"}], {}, "robot"),
        ("x" * 600, {}, "text 1 has 600 tokens; .* room for 511 of the model's 512"),
        ("x", {"temperature": -1}, "temperature is -1"),
        ("x", {"top_q": 1}, "no option 'top_q'"),
        ("x", {"max_tokens": 0}, "max_tokens is 0"),
        ("x", {"stop": ["s"] * 17}, "stop has 17 texts: it may have up to 16"),
        ("x", {"stop": [""]}, "stop is ''"),
        ("x", {"n": 17}, "n is 17"),
        ("x", {"regex": "a", "json_schema": {}}, "one shape"),
        ("x", {"json_schema": {"type": "florb"}}, "florb"),
        ("x", {"json_schema": "{"}, "JSON"),
        ("x", {"regex": "(a"}, "regular expression|regex"),
        ("x", {"adapters": ["none"]}, "adapter 'none'"),
        ("x", {"tools": []}, "tools goes with a conversation"),
        (HELLO, {"tools": [{"type": "function"}]}, "tool"),
        (HELLO, {"template_options": {"messages": []}}, "messages"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    model: GenerativeModel, given: Any, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        model.generate(given, **parameters)


def test_a_long_prompt_loses_its_beginning_if_asked(model: GenerativeModel) -> None:
    prompt = "y" * 500 + "Once upon a time"
    answer = model.generate(prompt, max_tokens=8, temperature=0, on_long_prompt="truncate")
    assert answer.truncated
    assert answer.usage.prompt_tokens == 512 - 8
    short = model.generate(prompt[-504:], max_tokens=8, temperature=0)
    assert not short.truncated
    assert short.tokens == answer.tokens


def test_one_bad_prompt_leaves_the_others_their_answers(model: GenerativeModel) -> None:
    alone = model.generate("good", max_tokens=5, temperature=0)
    answers = model.generate(
        ["good", "x" * 600, "good"], errors="return", max_tokens=5, temperature=0
    )
    first, refused, last = answers
    assert isinstance(first, Completion)
    assert isinstance(refused, LeptonError)
    assert "text 2 has 600 tokens" in refused.message
    assert first.tokens == last.tokens == alone.tokens
    with pytest.raises(InputError, match="text 2 has 600 tokens"):
        model.generate(["good", "x" * 600], max_tokens=5)


def test_a_model_without_a_template_says_how_to_give_one(tmp_path: Path) -> None:
    folder = save_chat_model(tmp_path / "plain", template=None)
    built = lepton_edge.build(recipe(folder), output=tmp_path / "out")
    with lepton_edge.load(built.path) as model:
        with pytest.raises(InputError, match="chat_template"):
            model.generate(HELLO)
        assert model.generate("x", max_tokens=2).usage.completion_tokens <= 2


def test_a_cache_larger_than_memory_is_refused_before_it_is_made(bundle: Bundle) -> None:
    with pytest.raises(LeptonError, match=r"a cache of 1,000,000,000,000 tokens takes .* MiB"):
        lepton_edge.load(bundle.path, cache_tokens=10**12)


def test_a_prompt_longer_than_the_cache_is_refused(bundle: Bundle) -> None:
    with (
        lepton_edge.load(bundle.path, cache_tokens=64) as small,
        pytest.raises(InputError, match="room for 63 of the model's 64"),
    ):
        small.generate("x" * 200)


def test_a_closed_model_says_so(bundle: Bundle) -> None:
    model = lepton_edge.load(bundle.path)
    assert isinstance(model, GenerativeModel)
    stream = model.stream("Once", max_tokens=400, temperature=1.0, seed=long_answer(model))
    next(stream)
    model.close()
    model.close()
    with pytest.raises(InferenceError, match="closed"):
        for _ in stream:
            pass
    with pytest.raises(InferenceError, match="closed"):
        model.generate("x")


def test_a_model_that_labels_does_not_generate(tiny_bert: Path, tmp_path: Path) -> None:
    built = lepton_edge.build(tiny_bert, output=tmp_path)
    with lepton_edge.load(built.path) as model:
        with pytest.raises(InputError, match="generates no text"):
            model.generate("x")
        with pytest.raises(InputError, match="generates no text"):
            model.stream("x")
    with pytest.raises(InputError, match="has no draft"):
        lepton_edge.load(built.path, draft="x")


def test_bench_and_tune_say_what_they_are_for(bundle: Bundle) -> None:
    with pytest.raises(InputError, match="bench is not for text-generation"):
        lepton_edge.bench(bundle.path)
    with pytest.raises(InputError, match="tune is not for text-generation"):
        lepton_edge.tune(bundle.path)


def test_the_same_model_gives_the_same_bundle(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    again = lepton_edge.build(recipe(folder), output=tmp_path)
    assert again.manifest.files == open_bundle(bundle.path).manifest.files
