"""The checkpoints that speed is measured on, and what becomes of them for llama.cpp."""

from __future__ import annotations

import functools
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.benchmarks import generation_rivals, shapes
from tests.benchmarks.shapes import LLAMA, QWEN, SHAPES, Shape

_REPOSITORY = Path(__file__).parents[2]
_PARAMETERS = {QWEN.name: 494_032_768, LLAMA.name: 1_235_814_400}
_PROMPT = [300, 401, 302, 450, 333, 299, 410, 350]
_VOCABULARY = 640


def _tiny(shape: Shape) -> Shape:
    """Few small layers, and weights large enough for answers that differ visibly."""
    config = {
        **shape.config,
        "hidden_size": 256,
        "initializer_range": 0.08,
        "intermediate_size": 512,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "rope_theta": 100.0,
        "vocab_size": _VOCABULARY,
    }
    if "rope_scaling" in config:  # so that it tells within the length of the test's texts
        config["rope_scaling"] = {
            **config["rope_scaling"],
            "original_max_position_embeddings": 32,
        }
    ids = {name: 600 + place for place, name in enumerate(shape.special.values())}
    config["bos_token_id"] = ids[shape.bos or shape.pad]
    config["eos_token_id"] = ids[shape.eos]
    generation = {"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"]}
    special = {number: name for name, number in ids.items()}
    return replace(shape, config=config, generation=generation, special=special)


@pytest.fixture(scope="module", params=[QWEN, LLAMA], ids=lambda shape: shape.name)
def shape(request: pytest.FixtureRequest) -> Shape:
    return _tiny(request.param)


@pytest.fixture(scope="module")
def folder(shape: Shape, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes.make(shape, tmp_path_factory.mktemp("shapes"))


def _greedy(folder: Path, prompt: Sequence[int], tokens: int) -> list[int]:
    """By transformers, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    with torch.no_grad():
        answer = model.generate(
            torch.tensor([list(prompt)]), do_sample=False, max_new_tokens=tokens, pad_token_id=0
        )
    found: list[int] = answer[0, len(prompt) :].tolist()
    return found


@pytest.mark.parametrize("shape", SHAPES.values(), ids=lambda shape: shape.name)
def test_a_published_shape_has_the_published_number_of_parameters(shape: Shape) -> None:
    found = sum(math.prod(size) for size in shapes.tensors(shape.config).values())

    assert found == _PARAMETERS[shape.name]


def test_a_checkpoint_has_every_tensor_that_transformers_wants_and_no_other(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model: Any
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)

    assert model.dtype == torch.bfloat16
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_the_weights_have_the_spread_of_the_configuration(shape: Shape, folder: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    matrix = weights["model.layers.1.mlp.up_proj.weight"].float()
    norm = weights["model.layers.1.input_layernorm.weight"].float()

    assert matrix.std().item() == pytest.approx(shape.config["initializer_range"], rel=0.02)
    assert matrix.mean().abs().item() < 0.001
    assert norm.mean().item() == pytest.approx(1, abs=0.02)


def test_the_same_seed_makes_the_same_files(shape: Shape, folder: Path, tmp_path: Path) -> None:
    again = shapes.make(shape, tmp_path)
    other = shapes.make(replace(shape, seed=1, name="other"), tmp_path)

    files = sorted(path.name for path in folder.iterdir())
    assert [(again / name).read_bytes() for name in files] == [
        (folder / name).read_bytes() for name in files
    ]
    weights = "model.safetensors"
    assert (other / weights).read_bytes() != (folder / weights).read_bytes()


def test_a_folder_that_is_there_is_kept(shape: Shape, folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}

    assert shapes.make(shape, folder.parent) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_folder_of_another_configuration_is_refused(shape: Shape, folder: Path) -> None:
    other = replace(shape, config={**shape.config, "num_hidden_layers": 4})

    with pytest.raises(SystemExit, match="another configuration"):
        shapes.make(other, folder.parent)


def test_a_folder_that_was_left_half_made_is_made_again(shape: Shape, tmp_path: Path) -> None:
    part = tmp_path / f".{shape.name}.part"
    part.mkdir()
    (part / "model.safetensors").write_bytes(b"half")

    folder = shapes.make(shape, tmp_path)

    assert (folder / "model.safetensors").stat().st_size > 1000
    assert not part.exists()


def test_every_id_below_the_vocabulary_size_is_a_token(shape: Shape, folder: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    assert sorted(tokenizer.get_vocab().values()) == list(range(_VOCABULARY))
    assert all(tokenizer.token_to_id(name) == each for each, name in shape.special.items())


def test_a_chat_begins_its_messages_with_single_special_tokens(shape: Shape, folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]

    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]

    found = [shape.special[number] for number in ids if number in shape.special]
    if shape.bos is None:
        assert found == ["<|im_start|>", "<|im_end|>"] * 2 + ["<|im_start|>"]
    else:
        headed = ["<|start_header_id|>", "<|end_header_id|>"]
        assert found == [shape.bos, *[*headed, "<|eot_id|>"] * 2, *headed]
    assert "Be brief." in tokenizer.decode(ids)


@settings(max_examples=30, deadline=None)
@given(text=st.text(max_size=60))
def test_a_text_comes_back_from_its_tokens(text: str) -> None:
    tokenizer = _tokenizer()

    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


@functools.cache
def _tokenizer() -> Any:
    return shapes._tokenizer(_tiny(QWEN))


@pytest.fixture(scope="session")
def llama_python() -> str:
    """A Python that has llama-cpp-python and gguf."""
    python = os.environ.get("LLAMA_CPP_PYTHON", sys.executable)
    probe = subprocess.run(
        [python, "-c", "import gguf, llama_cpp"], capture_output=True, check=False
    )
    if probe.returncode:
        pytest.skip(
            "llama-cpp-python and gguf are not here: install them, or name a Python that has "
            "them in LLAMA_CPP_PYTHON"
        )
    return python


def _gguf(python: str, folder: Path, file: Path, weights: str) -> Path:
    subprocess.run(
        [python, "-m", "tests.benchmarks.gguf_file", folder, file, "--weights", weights],
        cwd=_REPOSITORY,
        check=True,
        capture_output=True,
    )
    return file


def test_llama_cpp_writes_the_tokens_that_transformers_writes(
    folder: Path, tmp_path: Path, llama_python: str
) -> None:
    file = _gguf(llama_python, folder, tmp_path / "model.gguf", "f32")

    with generation_rivals.llama_cpp(file, threads=2, context=64, python=llama_python) as worker:
        answer = worker.generate([_PROMPT], 32)

    expected = _greedy(folder, _PROMPT, 32)
    assert answer.tokens == [expected]
    assert len(set(expected)) > 8  # not the same few over and over: it would say little
    assert answer.seconds[0] == sorted(answer.seconds[0])


@pytest.mark.parametrize("weights", ["plain", "repacked"])
def test_llama_cpp_opens_q4_0_and_forgets_the_text_before(
    folder: Path, tmp_path: Path, llama_python: str, weights: Any
) -> None:
    file = _gguf(llama_python, folder, tmp_path / "model.gguf", "q4_0")
    worker = generation_rivals.llama_cpp(
        file, threads=2, context=64, python=llama_python, weights=weights
    )

    with worker:
        first = worker.generate([_PROMPT], 16)
        worker.generate([_PROMPT[::-1]], 16)
        again = worker.generate([_PROMPT], 16)

    assert first.tokens == again.tokens
    assert len(first.tokens[0]) == 16
