"""LoRA adapters in a bundle, and drafts beside one: from a recipe to an answer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import lepton_edge
from lepton_edge import GenerativeModel, Recipe
from lepton_edge.bundle import open_bundle
from lepton_edge.cli import main
from lepton_edge.errors import BackendError, InputError, IntegrityError, LeptonError, RecipeError
from lepton_edge.recipe import load_recipe
from tests.chat_model import save_chat_model, tokenizer
from tests.lora import save_adapter

pytest.importorskip("openvino_genai")

PROMPT = "Once upon a time"
COUNT = 12


@dataclass(frozen=True)
class Made:
    """A recipe's folder, what was built of it, and what torch answers: the model alone, and with
    each adapter merged."""

    folder: Path
    bundle: Path
    expected: dict[str, list[int]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("recipe")
    save_chat_model(folder / "model", family="llama")
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    models = {
        "": model,
        "polite": save_adapter(model, folder / "polite", 1, 4, 8.0),
        "terse": save_adapter(model, folder / "terse", 2, 2, 1.0),
    }
    (folder / "recipe.yaml").write_text(
        "name: tiny\nsource: model\nprecision: fp32\n"
        "adapters: {polite: polite, terse: terse/adapter_model.safetensors}\n"
    )
    bundle = lepton_edge.build(folder / "recipe.yaml", output=folder / "out")
    found = {name: greedy(each) for name, each in models.items()}
    assert len({tuple(each) for each in found.values()}) == 3
    return Made(folder, bundle.path, found)


def greedy(model: Any) -> list[int]:
    ids = torch.tensor([_ids(PROMPT)])
    with torch.no_grad():
        found = model.generate(ids, max_new_tokens=COUNT, do_sample=False, pad_token_id=0)
    return [int(token) for token in found[0, ids.shape[1] :]]


def _ids(text: str) -> list[int]:
    made: Any = tokenizer()
    return list(made(text, add_special_tokens=False)["input_ids"])


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def test_a_call_chooses_among_the_bundles_adapters(made: Made) -> None:
    assert open_bundle(made.bundle).manifest.adapters == ("polite", "terse")
    with lepton_edge.load(made.bundle) as model:
        assert isinstance(model, GenerativeModel)
        for name in ("", "polite", "terse", ""):
            chosen = [name] if name else None
            answer = model.generate(PROMPT, max_tokens=COUNT, temperature=0, adapters=chosen)
            assert list(answer.tokens) == made.expected[name]
        with pytest.raises(InputError, match="there is no adapter 'rude'; opened: polite, terse"):
            model.generate(PROMPT, adapters=["rude"])


def test_the_command_line_chooses_too(made: Made) -> None:
    def tokens(*options: str) -> list[int]:
        result = run(
            "run", made.bundle, PROMPT, "--raw", "--max-tokens", COUNT, "--temperature", 0,
            "--json", *options,
        )  # fmt: skip
        assert result.exit_code == 0, result.stderr
        return list(json.loads(result.stdout)[0]["result"]["tokens"])

    assert tokens("--adapter", "polite") == made.expected["polite"]
    assert tokens("--adapter", "polite=0") == made.expected[""]
    assert tokens() == made.expected[""]
    # Guesses go without the bundle's adapters.
    assert tokens("--prompt-lookup") == made.expected[""]
    assert tokens("--draft", str(made.bundle)) == made.expected[""]
    wrong = run("run", made.bundle, PROMPT, "--adapter", "polite=much")
    assert wrong.exit_code == 2
    assert "--adapter is 'polite=much': it is NAME or NAME=STRENGTH" in wrong.stderr
    both = run("run", made.bundle, PROMPT, "--adapter", "polite", "--prompt-lookup")
    assert both.exit_code == 2
    assert "tokens are not guessed for a model with adapters" in both.stderr


def test_inspect_names_the_adapters(made: Made) -> None:
    assert "adapters     polite, terse" in run("inspect", made.bundle).stdout


def test_a_call_of_load_may_leave_them_out(made: Made) -> None:
    with (
        lepton_edge.load(made.bundle, adapters={}) as model,
        pytest.raises(InputError, match="there is no adapter 'polite'; opened: none"),
    ):
        model.generate(PROMPT, adapters=["polite"])
    with lepton_edge.load(made.bundle, adapters={"other": made.folder / "terse"}) as model:
        answer = model.generate(PROMPT, max_tokens=COUNT, temperature=0, adapters={"other": 1})
        assert list(answer.tokens) == made.expected["terse"]
    with pytest.raises(BackendError, match="does not guess tokens for a model with adapters"):
        lepton_edge.load(made.bundle, prompt_lookup=True)


def test_a_changed_adapter_is_noticed(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.bundle, tmp_path / "copy")
    file = tmp_path / "copy" / "adapters" / "polite" / "adapter_config.json"
    file.write_text(file.read_text().replace("8.0", "9.0"))
    with pytest.raises(IntegrityError, match=r"adapters/polite/adapter_config\.json"):
        lepton_edge.load(tmp_path / "copy")


def other_model(folder: Path) -> None:
    from tests.decoders import tiny_decoder

    save_adapter(tiny_decoder("llama", hidden_size=16), folder / "bad", 1, 2, 1.0)


def no_weights(folder: Path) -> None:
    (folder / "bad").mkdir()


def no_rank(folder: Path) -> None:
    other_model(folder)
    (folder / "bad" / "adapter_config.json").write_text("{}")


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (other_model, {}, "the adapter 'bad' is not for this model"),
        (no_weights, {}, "there is no adapter 'bad' at"),
        (no_rank, {}, "'bad' has an adapter_config.json without r and lora_alpha"),
        (None, {"target": "rtx"}, "has adapters, and rtx is for tensorrt, which takes none"),
    ],
)
def test_a_build_refuses_an_adapter_that_is_not_for_it(
    made: Made,
    tmp_path: Path,
    make: Callable[[Path], None] | None,
    changes: dict[str, Any],
    message: str,
) -> None:
    recipe = load_recipe(made.folder / "recipe.yaml")
    if make is not None:
        make(tmp_path)
        recipe = recipe.changed(adapters={"bad": str(tmp_path / "bad")})
    if changes:
        pytest.importorskip("lepton_edge_tensorrt")
    with pytest.raises(LeptonError, match=message):
        lepton_edge.build(recipe, output=tmp_path / "out", **changes)
    assert not list((tmp_path / "out").glob("*"))


def test_adapters_are_for_text_generation(tiny_bert: Path, tmp_path: Path, made: Made) -> None:
    recipe = Recipe.model_validate(
        {"name": "b", "source": str(tiny_bert), "adapters": {"polite": str(made.folder / "polite")}}
    )
    with pytest.raises(RecipeError, match="they are for text-generation"):
        lepton_edge.build(recipe, output=tmp_path)


def test_an_adapters_name_is_a_plain_one() -> None:
    with pytest.raises(ValueError, match="adapters"):
        Recipe.model_validate({"name": "b", "adapters": {"../up": "x"}})
