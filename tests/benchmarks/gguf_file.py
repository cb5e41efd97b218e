"""``python -m tests.benchmarks.gguf_file FOLDER FILE.gguf``: a checkpoint as llama.cpp reads it.

Qwen2 and Llama checkpoints with tied embeddings and a byte-level BPE, as `shapes` makes them. The
numbers are the checkpoint's own, written as they are; llama.cpp's own recipe then makes Q4_0 of
them, so what becomes of each tensor (the embedding keeps more bits) is what its users get.

Needs numpy, gguf and, for Q4_0, llama-cpp-python.
"""

from __future__ import annotations

import argparse
import json
import math
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFWriter
    from numpy.typing import NDArray

Weights = Literal["f32", "bf16", "q4_0"]
"""As they are computed with; in 16 bits, the checkpoint's own; in about 4.5."""

_ARCHITECTURES = ("llama", "qwen2")
_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def convert(folder: Path, file: Path, weights: Weights) -> Path:
    """Write ``file``. Raises `SystemExit` for another architecture."""
    if weights != "q4_0":
        return _write(folder, file, weights)
    with tempfile.TemporaryDirectory(dir=file.parent) as beside:
        whole = _write(folder, Path(beside) / "bf16.gguf", "bf16")
        return _quantize(whole, file)


def _write(folder: Path, file: Path, weights: Literal["f32", "bf16"]) -> Path:
    from gguf import GGUFWriter

    config = _read_json(folder / "config.json")
    if config["model_type"] not in _ARCHITECTURES or not config["tie_word_embeddings"]:
        raise SystemExit(
            f"{folder}: {config['model_type']!r} is not converted here, only "
            f"{', '.join(_ARCHITECTURES)} with tied embeddings"
        )
    writer = GGUFWriter(file, config["model_type"])
    _add_configuration(writer, folder.name, config)
    _add_tokenizer(writer, folder)
    # What is in each tensor is read only when it is written: one at a time is in memory.
    for name, tensor in _tensors(folder, config):
        kind = _kind(tensor, weights)
        size = tensor.size * kind.itemsize
        writer.add_tensor_info(name, tensor.shape, kind, size, raw_dtype=_gguf_type(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, tensor in _tensors(folder, config):
        writer.write_tensor_data(tensor if _kind(tensor, weights).itemsize == 2 else _wide(tensor))
    writer.close()
    return file


def _quantize(source: Path, file: Path) -> Path:
    import ctypes

    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0
    failed = llama_cpp.llama_model_quantize(
        str(source).encode(), str(file).encode(), ctypes.byref(params)
    )
    if failed:
        raise SystemExit(f"llama.cpp cannot make Q4_0 of {source}: status {failed}")
    return file


def _add_configuration(writer: GGUFWriter, name: str, config: Mapping[str, Any]) -> None:
    heads = config["num_attention_heads"]
    writer.add_name(name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(_head_size(config))
    writer.add_vocab_size(config["vocab_size"])


def _add_tokenizer(writer: GGUFWriter, folder: Path) -> None:
    from gguf import TokenType

    tokenizer = _read_json(folder / "tokenizer.json")
    described = _read_json(folder / "tokenizer_config.json")
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    special = {entry["content"] for entry in tokenizer["added_tokens"]}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens]
    )
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(vocabulary[described["eos_token"]])
    writer.add_pad_token_id(vocabulary[described["pad_token"]])
    if described["bos_token"]:
        writer.add_bos_token_id(vocabulary[described["bos_token"]])
    writer.add_add_bos_token(bool(described["bos_token"]))
    writer.add_chat_template(described["chat_template"])


def _tensors(folder: Path, config: Mapping[str, Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    """By llama.cpp's names: uint16 for bfloat16, or float32."""
    for name, tensor in _checkpoint(folder / "model.safetensors"):
        if config["model_type"] == "llama" and ("q_proj" in name or "k_proj" in name):
            yield _renamed(name), _interleaved(tensor, _head_size(config))
        else:
            yield _renamed(name), tensor
    scaling = config.get("rope_scaling")
    if scaling:
        yield "rope_freqs.weight", _rope_factors(_head_size(config), config["rope_theta"], scaling)


def _checkpoint(file: Path) -> Iterator[tuple[str, NDArray[np.uint16]]]:
    """The tensors of a bfloat16 safetensors file, mapped: their bits."""
    import numpy as np

    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header = json.loads(opened.read(length))
    for name, entry in header.items():
        if name != "__metadata__":
            if entry["dtype"] != "BF16":
                raise SystemExit(f"{file}: {name} is {entry['dtype']}, and only BF16 is read here")
            place = 8 + length + entry["data_offsets"][0]
            yield name, np.memmap(file, np.uint16, "r", place, tuple(entry["shape"]))


def _renamed(name: str) -> str:
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, number, rest = name.split(".", 3)
    part, kind = rest.rsplit(".", 1)
    return f"blk.{number}.{_NAMES[part]}.{kind}"


def _interleaved(tensor: NDArray[Any], size: int) -> NDArray[Any]:
    """Rows of a head in the order of llama.cpp's Llama: it rotates dimensions 2i and 2i + 1
    together, where transformers rotates i and i + size / 2."""
    rest = tensor.shape[1:]
    halves = tensor.reshape(-1, 2, size // 2, *rest)
    pairs: NDArray[Any] = halves.swapaxes(1, 2).reshape(tensor.shape)
    return pairs


def _rope_factors(size: int, theta: float, scaling: Mapping[str, Any]) -> NDArray[np.float32]:
    """What each rotary frequency is divided by, as Llama 3.1 stretches them: wavelengths beyond
    the original context over ``low_freq_factor`` by ``factor``, those below it over
    ``high_freq_factor`` not at all, those between by proportion."""
    import numpy as np

    if scaling["rope_type"] != "llama3":
        raise SystemExit(f"rope_type {scaling['rope_type']!r} is not converted here, only llama3")
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    original = scaling["original_max_position_embeddings"]
    waves = 2 * math.pi * theta ** (np.arange(0, size, 2) / size)
    share = np.clip((original / waves - low) / (high - low), 0, 1)
    factors: NDArray[np.float32] = (1 / (share + (1 - share) / scaling["factor"])).astype("f4")
    return factors


def _kind(tensor: NDArray[Any], weights: Literal["f32", "bf16"]) -> np.dtype[Any]:
    """Matrices as asked for; vectors in float32, as llama.cpp wants them."""
    import numpy as np

    return np.dtype(np.uint16 if weights == "bf16" and tensor.ndim > 1 else np.float32)


def _gguf_type(kind: np.dtype[Any]) -> Any:
    from gguf import GGMLQuantizationType

    return GGMLQuantizationType.BF16 if kind.itemsize == 2 else GGMLQuantizationType.F32


def _wide(tensor: NDArray[Any]) -> NDArray[np.float32]:
    """bfloat16's bits, or float32 already, as float32."""
    import numpy as np

    if tensor.dtype == np.float32:
        return tensor
    wide: NDArray[np.float32] = (tensor.astype(np.uint32) << 16).view(np.float32)
    return wide


def _head_size(config: Mapping[str, Any]) -> int:
    size: int = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return size


def _read_json(file: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return read


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gguf_file")
    parser.add_argument("folder", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--weights", choices=Weights.__args__, default="q4_0")  # type: ignore[attr-defined]
    given = parser.parse_args(arguments)
    print(convert(given.folder, given.file, given.weights))


if __name__ == "__main__":
    main()
