"""The verbs of a model that generates, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import lepton_edge
from lepton_edge import Recipe
from lepton_edge.bundle import Bundle
from lepton_edge.cli import main
from tests.chat_model import save_chat_model


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = save_chat_model(tmp_path_factory.mktemp("models") / "tiny-chat")
    recipe = Recipe.model_validate({"name": "tiny", "source": str(folder), "precision": "fp32"})
    return lepton_edge.build(recipe, output=tmp_path_factory.mktemp("bundles"))


def run(*arguments: object, text: str | None = None) -> Result:
    result = CliRunner().invoke(main, list(map(str, arguments)), input=text)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def test_run_streams_what_it_returns(bundle: Bundle) -> None:
    common = ("run", bundle.path, "Hello", "--max-tokens", 8, "--temperature", 0)
    whole, streamed = run(*common), run(*common, "--stream")
    assert whole.exit_code == streamed.exit_code == 0
    assert streamed.stdout.rstrip("\n") == whole.stdout.rstrip("\n")
    for result in (whole, streamed):
        assert "8 tokens, the first after" in result.stderr
        assert "on CPU (fp32); opened in" in result.stderr


def test_run_answers_a_message_and_continues_a_raw_text(bundle: Bundle) -> None:
    def tokens(*options: str) -> int:
        result = run("run", bundle.path, "Hello", "--max-tokens", 2, "--json", *options)
        (answer,) = json.loads(result.stdout)
        assert answer["text"] == "Hello"
        return int(answer["result"]["usage"]["prompt_tokens"])

    assert tokens("--raw") == 5
    assert tokens() > 20


def test_run_takes_any_parameter(bundle: Bundle) -> None:
    result = run(
        "run", bundle.path, "x", "--raw", "-p", "regex=[a-c]{3}", "-p", "n=2", "--seed", 1,
        "--temperature", 1, "--json",
    )  # fmt: skip
    (answer,) = json.loads(result.stdout)
    texts = [choice["text"] for choice in answer["result"]["choices"]]
    assert len(texts) == 2
    assert all(len(text) == 3 and set(text) <= set("abc") for text in texts)


def test_run_answers_the_rows_of_a_file(bundle: Bundle, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "a", "id": 1}\n{"text": "b", "id": 2}\n')
    result = run("run", bundle.path, "-i", source, "-o", output, "--max-tokens", 3)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["id"] for row in rows] == [1, 2]
    assert all(row["usage"]["completion_tokens"] <= 3 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "b", "--stream"], "--stream shows one answer, and 2 texts were given"),
        (["a", "--stream", "--json"], "--stream goes without --json"),
        (["a", "-p", "flavour=1"], "text-generation has no option 'flavour'"),
        (["a", "-p", "json_schema=[1]"], "schema"),
    ],
)
def test_run_refuses_what_it_cannot_do(bundle: Bundle, arguments: list[str], message: str) -> None:
    result = run("run", bundle.path, *arguments)
    assert result.exit_code in (1, 2)
    assert message in result.stderr


def test_chat_keeps_the_conversation(bundle: Bundle) -> None:
    lines = "Hello\n\nAgain\n/undo\nOther\n/reset\nHello\n/exit\nnever\n"
    result = run("chat", bundle.path, "--max-tokens", 4, "--temperature", 0, "--json", text=lines)
    assert result.exit_code == 0, result.output
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [each["text"] for each in answers] == ["Hello", "Again", "Other", "Hello"]
    first, second, third, last = (each["result"] for each in answers)
    assert second["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"]
    assert third["usage"]["prompt_tokens"] == second["usage"]["prompt_tokens"]  # five letters too
    assert last["tokens"] == first["tokens"]
    assert last["usage"] == first["usage"]


def test_chat_begins_with_the_system_message(bundle: Bundle) -> None:
    def prompt(*options: str, text: str = "x\n") -> int:
        result = run("chat", bundle.path, "--max-tokens", 1, "--json", *options, text=text)
        return int(json.loads(result.stdout.splitlines()[-1])["result"]["usage"]["prompt_tokens"])

    assert prompt("--system", "Be kind.") == prompt() + len("system\nBe kind.\n") + 2
    assert prompt(text="/system Be kind.\nx\n") == prompt("--system", "Be kind.")


def test_chat_goes_on_after_a_message_that_is_too_long(bundle: Bundle) -> None:
    result = run(
        "chat", bundle.path, "--max-tokens", 3, "--temperature", 0, text="x" * 600 + "\nHello\n"
    )
    assert result.exit_code == 0
    assert "room for 511 of the model's 512" in result.stderr
    assert result.stdout.strip()


def test_chat_lists_its_commands(bundle: Bundle) -> None:
    result = run("chat", bundle.path, text="/help\n/nothing\n/undo\n")
    assert result.stderr.count("/reset") == 2
    assert "there is no /nothing" in result.stderr
    assert "nothing to forget" in result.stderr


def test_chat_is_refused_without_a_template_before_anything_is_typed(tmp_path: Path) -> None:
    folder = save_chat_model(tmp_path / "plain", template=None)
    built = lepton_edge.build(
        Recipe.model_validate({"name": "plain", "source": str(folder)}), output=tmp_path
    )
    result = run("chat", built.path, text="Hello\n")
    assert result.exit_code == 1
    assert "plain has no chat template" in result.stderr
    assert "chat_template" in result.stderr


def test_inspect_shows_what_was_measured(bundle: Bundle) -> None:
    shown = run("inspect", bundle.path).stdout
    assert "original perplexity" in shown
    assert "100.0% of 256" in shown
