"""``python -m tests.benchmarks.shapes``: checkpoints of a published shape with random weights.

How many tokens a second a language model writes depends on its configuration and its precision, and
not on what its weights are. So speed is measured on the published configurations of two models,
with weights, a tokenizer and chat templates made here. What such a model writes means nothing.

Needs numpy and tokenizers alone, and memory for the largest tensor.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_HEADERS = (
    "{{ bos_token }}{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_LEARNED = 6000  # byte-pair tokens of the tokenizer; the rest of a vocabulary are made-up words
_ROWS = 1 << 14  # of a matrix made at once: what bounds the memory
_SYLLABLES = [first + second for first in "bcdfghjklmnpqrstvwxz" for second in "aeiou"]


@dataclass(frozen=True)
class Shape:
    """A model's files less its weights, as they are published.

    ``special`` are the tokens with a meaning, by id; ``bos`` is put before every text if given.
    """

    name: str
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    special: Mapping[int, str]
    template: str
    eos: str
    pad: str
    bos: str | None = None
    max_length: int = 32768
    seed: int = 20261123


QWEN = Shape(
    name="qwen2.5-0.5b-instruct",
    config={
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "hidden_act": "silu",
        "hidden_size": 896,
        "initializer_range": 0.02,
        "intermediate_size": 4864,
        "max_position_embeddings": 32768,
        "max_window_layers": 21,
        "model_type": "qwen2",
        "num_attention_heads": 14,
        "num_hidden_layers": 24,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.43.1",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    generation={
        "bos_token_id": 151643,
        "do_sample": True,
        "eos_token_id": [151645, 151643],
        "pad_token_id": 151643,
        "repetition_penalty": 1.1,
        "temperature": 0.7,
        "top_k": 20,
        "top_p": 0.8,
    },
    special={151643: "<|endoftext|>", 151644: "<|im_start|>", 151645: "<|im_end|>"},
    template=_CHATML,
    eos="<|im_end|>",
    pad="<|endoftext|>",
)

LLAMA = Shape(
    name="llama-3.2-1b-instruct",
    config={
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009],
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "initializer_range": 0.02,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_hidden_layers": 16,
        "num_key_value_heads": 8,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0.dev0",
        "use_cache": True,
        "vocab_size": 128256,
    },
    generation={
        "bos_token_id": 128000,
        "do_sample": True,
        "eos_token_id": [128001, 128008, 128009],
        "temperature": 0.6,
        "top_p": 0.9,
    },
    special={
        128000: "<|begin_of_text|>",
        128001: "<|end_of_text|>",
        128004: "<|finetune_right_pad_id|>",
        128006: "<|start_header_id|>",
        128007: "<|end_header_id|>",
        128008: "<|eom_id|>",
        128009: "<|eot_id|>",
        128010: "<|python_tag|>",
    },
    template=_HEADERS,
    eos="<|eot_id|>",
    pad="<|finetune_right_pad_id|>",
    bos="<|begin_of_text|>",
    max_length=131072,
)

SHAPES = {shape.name: shape for shape in (QWEN, LLAMA)}


def make(shape: Shape, parent: Path) -> Path:
    """The folder ``parent / shape.name``, made where it is absent.

    It appears whole or not at all. Raises `SystemExit` where one of another configuration is there.
    """
    folder = parent / shape.name
    if folder.exists():
        if json.loads((folder / "config.json").read_text(encoding="utf-8")) != shape.config:
            raise SystemExit(f"{folder} has another configuration: remove it, or name another one")
        return folder
    part = parent / f".{shape.name}.part"
    part.mkdir(parents=True, exist_ok=True)
    _write_json(part / "config.json", shape.config)
    _write_json(part / "generation_config.json", shape.generation)
    _write_tokenizer(shape, part)
    _write_weights(shape, part / "model.safetensors")
    part.rename(folder)
    return folder


def tensors(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Qwen2 or Llama checkpoint with tied embeddings, in order."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads, shared = config["num_attention_heads"], config["num_key_value_heads"]
    size = config.get("head_dim", hidden // heads)
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden)
    }
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}."
        found[layer + "input_layernorm.weight"] = (hidden,)
        for name, width in (("q", heads * size), ("k", shared * size), ("v", shared * size)):
            found[f"{layer}self_attn.{name}_proj.weight"] = (width, hidden)
            if config["model_type"] == "qwen2":
                found[f"{layer}self_attn.{name}_proj.bias"] = (width,)
        found[layer + "self_attn.o_proj.weight"] = (hidden, heads * size)
        found[layer + "post_attention_layernorm.weight"] = (hidden,)
        found[layer + "mlp.gate_proj.weight"] = (inner, hidden)
        found[layer + "mlp.up_proj.weight"] = (inner, hidden)
        found[layer + "mlp.down_proj.weight"] = (hidden, inner)
    found["model.norm.weight"] = (hidden,)
    return found


def _write_weights(shape: Shape, file: Path) -> None:
    """bfloat16, tensor after tensor, as https://github.com/huggingface/safetensors#format says."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    wanted = tensors(shape.config)
    for name, dimensions in wanted.items():
        start, end = end, end + 2 * _product(dimensions)
        header[name] = {"dtype": "BF16", "shape": dimensions, "data_offsets": [start, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(head)) + head)
        for number, (name, dimensions) in enumerate(wanted.items()):
            for values in _random(shape, number, name, dimensions):
                out.write(_bfloat16(values).tobytes())
        os.fsync(out.fileno())


def _random(
    shape: Shape, number: int, name: str, dimensions: tuple[int, ...]
) -> Iterator[NDArray[np.float32]]:
    """Normal, around 0, or around 1 for what scales a normalized vector; some rows at a time."""
    import numpy as np

    chance = np.random.default_rng([shape.seed, number])
    middle = np.float32(name.endswith("norm.weight"))
    spread = np.float32(shape.config["initializer_range"])
    for start in range(0, dimensions[0], _ROWS):
        rows = (min(_ROWS, dimensions[0] - start), *dimensions[1:])
        yield chance.standard_normal(rows, np.float32) * spread + middle


def _bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper half of each value's bits, rounded to the nearest."""
    import numpy as np

    bits: NDArray[np.uint16] = ((values.view(np.uint32) + 0x8000) >> 16).astype(np.uint16)
    return bits


def _write_tokenizer(shape: Shape, folder: Path) -> None:
    _tokenizer(shape).save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "bos_token": shape.bos,
            "chat_template": shape.template,
            "clean_up_tokenization_spaces": False,
            "eos_token": shape.eos,
            "model_max_length": shape.max_length,
            "pad_token": shape.pad,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )


def _tokenizer(shape: Shape) -> Tokenizer:
    """A byte-level BPE learned from Python's own help texts, grown to the published vocabulary."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    learned = _learned(min(_LEARNED, *shape.special))
    tokens = {name: number for number, name in shape.special.items()}
    vocabulary = learned["vocab"] | tokens
    words = _words(vocabulary)
    taken = set(vocabulary.values())
    for number in range(shape.config["vocab_size"]):
        if number not in taken:
            vocabulary[next(words)] = number
    merges = [(first, second) for first, second in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    steps = [processors.ByteLevel(trim_offsets=False)]
    if shape.bos:
        steps.append(
            processors.TemplateProcessing(
                single=f"{shape.bos} $A",
                pair=f"{shape.bos} $A {shape.bos} $B",
                special_tokens=[(shape.bos, tokens[shape.bos])],
            )
        )
    tokenizer.post_processor = processors.Sequence(steps)
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in shape.special.values()]
    )
    return tokenizer


def _learned(size: int) -> dict[str, Any]:
    """Vocabulary and merges of ``size`` tokens, the bytes first."""
    from pydoc_data.topics import topics

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator([topics[name] for name in sorted(topics)], trainer)
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return model


def _words(taken: Mapping[str, int]) -> Iterator[str]:
    """Made-up words after a space, none of them taken. No merge leads to one: only the model
    itself writes them."""
    number = len(_SYLLABLES) ** 2
    while True:
        word, rest = "Ġ", number
        while rest:
            rest, place = divmod(rest, len(_SYLLABLES))
            word += _SYLLABLES[place]
        number += 1
        if word not in taken:
            yield word


def _product(dimensions: tuple[int, ...]) -> int:
    result = 1
    for size in dimensions:
        result *= size
    return result


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.shapes")
    parser.add_argument("shapes", nargs="*", metavar="NAME", help=f"default: {', '.join(SHAPES)}")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.shapes if name not in SHAPES]
    if unknown:
        parser.error(f"there is no shape {unknown[0]!r}: {', '.join(SHAPES)}")
    for name in arguments.shapes or SHAPES:
        print(make(SHAPES[name], arguments.output))


if __name__ == "__main__":
    main()
