"""LoRA adapters (Hu et al. 2021) as PEFT saves them: a safetensors file, and beside it an
adapter_config.json with the rank and the scale.

An adapter adds to the product of a linear layer's weights W and what it is given, x: with the
matrices A and B of the adapter, B A x times a scale.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from lepton_edge.errors import InputError

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

_PREFIX = "base_model.model."
_FIRST, _SECOND = ".lora_A.weight", ".lora_B.weight"
_LONGEST_HEADER = 100 * 2**20

Layers = Mapping[str, tuple[int, int]]
"""A model's linear layers by name, and how many numbers each takes and gives."""


def find_adapter(name: str, path: Path) -> Path:
    """The safetensors file of an adapter that is given as such, or as PEFT's folder.

    Raises `InputError`.
    """
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise InputError(
            f"there is no adapter {name!r} at {path}",
            hint=f"give a safetensors file, or the folder with {WEIGHTS}",
        )
    return file


def check_adapter(name: str, file: Path, layers: Layers) -> None:
    """Raise `InputError` for an adapter that is not of the model with these layers."""
    for tensor, shape in _shapes(name, file).items():
        layer = tensor.removeprefix(_PREFIX)
        sizes, fits = None, False
        for ending, place in ((_FIRST, 0), (_SECOND, 1)):
            if layer.endswith(ending):
                sizes = layers.get(layer.removesuffix(ending))
                fits = sizes is not None and len(shape) == 2 and shape[1 - place] == sizes[place]
        if not fits:
            raise InputError(
                f"the adapter {name!r} is not for this model: "
                + (
                    f"{tensor} has the shape {shape}, and the layer takes and gives {list(sizes)}"
                    if sizes
                    else f"it has {tensor}, and the model has no such layer"
                ),
                hint="an adapter is for the very model that it was trained on; of what PEFT makes, "
                "LoRA matrices of linear layers are understood",
            )


def scale_of(name: str, file: Path) -> float:
    """lora_alpha over the rank, or over its root (rsLoRA), as the file beside the adapter says; 1
    where there is none. Raises `InputError`."""
    beside = file.with_name(CONFIG)
    if not beside.is_file():
        return 1.0
    try:
        config = json.loads(beside.read_text(encoding="utf-8"))
        rank, alpha = float(config["r"]), float(config["lora_alpha"])
        return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise InputError(
            f"the adapter {name!r} has an {CONFIG} without r and lora_alpha: {beside}",
            hint="take the one that PEFT saved with it",
        ) from error


def _shapes(name: str, file: Path) -> dict[str, list[int]]:
    """The tensors of a safetensors file: its header is JSON, after its length in 8 bytes."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 0 < length < _LONGEST_HEADER:
                raise ValueError("its header is too long")
            header = json.loads(stream.read(length))
        return {
            str(key): list(value["shape"]) for key, value in header.items() if key != "__metadata__"
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"the adapter {name!r} is not a safetensors file: {file}: {error}",
            hint=f"give the {WEIGHTS} that PEFT saved, or its folder",
        ) from error
