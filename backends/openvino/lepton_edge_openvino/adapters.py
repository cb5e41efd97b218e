"""LoRA adapters (Hu et al. 2021), which openvino-genai adds to a model as it runs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_edge.errors import BackendError

if TYPE_CHECKING:
    from lepton_edge_openvino.requests import Requests

_PREFIX = "base_model.model."
_FIRST, _SECOND = ".lora_A.weight", ".lora_B.weight"
_CONFIG = "adapter_config.json"
_LONGEST_HEADER = 100 * 2**20


class Adapters:
    """Opened adapters by name. Raises `BackendError` for one that is not of this model."""

    def __init__(self, genai: Any, files: Mapping[str, Path], model: Any) -> None:
        layers = _layers(model)
        for name, file in files.items():
            _check(name, file, layers)
        self._genai = genai
        self._opened = {name: genai.Adapter(str(file)) for name, file in files.items()}
        self._scales = {name: _scale(name, file) for name, file in files.items()}
        self._requests: Requests | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._opened)

    def config(self) -> Any:
        """All of them, for openvino-genai to make room for."""
        return self._genai.AdapterConfig(list(self._opened.values()))

    def use(self, requests: Requests) -> None:
        """How `choose` asks for a token."""
        self._requests = requests

    def choose(self, pipeline: Any, wanted: tuple[tuple[str, float], ...]) -> None:
        """Compute with these from now on. openvino-genai changes them in `generate` alone, which
        makes one token for it."""
        assert self._requests is not None
        chosen = [(self._opened[name], strength * self._scales[name]) for name, strength in wanted]
        config = self._requests.plain(1)
        config.adapters = (
            self._genai.AdapterConfig(chosen) if chosen else self._genai.AdapterConfig()
        )
        pipeline.generate([self._requests.any_prompt()], [config])


def _layers(model: Any) -> dict[str, tuple[int, int]]:
    """The model's layers by name, and how many numbers each takes and gives."""
    found = {}
    for each in model.get_ordered_ops():
        if each.get_type_name() == "MatMul" and "." in each.get_friendly_name():
            shape = each.get_input_partial_shape(1)
            if shape.rank.is_static and shape.rank.get_length() == 2 and shape.is_static:
                given, taken = (size.get_length() for size in shape)
                found[each.get_friendly_name()] = (taken, given)
    return found


def _check(name: str, file: Path, layers: Mapping[str, tuple[int, int]]) -> None:
    """What is left out without a word by openvino-genai: layers that the model does not have."""
    shapes = _shapes(name, file)
    for tensor, shape in shapes.items():
        layer = tensor.removeprefix(_PREFIX)
        for ending, place in ((_FIRST, 0), (_SECOND, 1)):
            if layer.endswith(ending):
                sizes = layers.get(layer.removesuffix(ending))
                fits = sizes is not None and len(shape) == 2 and shape[1 - place] == sizes[place]
                break
        else:
            sizes, fits = None, False
        if not fits:
            raise BackendError(
                f"the adapter {name!r} is not for this model: "
                + (
                    f"{tensor} has the shape {shape}, and the layer takes and gives {list(sizes)}"
                    if sizes
                    else f"it has {tensor}, and the model has no such layer"
                ),
                hint="an adapter is for the very model that it was trained on; of what PEFT makes, "
                "LoRA matrices of linear layers are understood",
            )


def _shapes(name: str, file: Path) -> dict[str, list[int]]:
    """The tensors of a safetensors file."""
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
        raise BackendError(
            f"the adapter {name!r} is not a safetensors file: {file}: {error}",
            hint="give the adapter_model.safetensors that PEFT saved, or its folder",
        ) from error


def _scale(name: str, file: Path) -> float:
    """lora_alpha over the rank, or its root (rsLoRA), as the file beside the adapter says; 1 where
    there is none."""
    beside = file.with_name(_CONFIG)
    if not beside.is_file():
        return 1.0
    try:
        config = json.loads(beside.read_text(encoding="utf-8"))
        rank, alpha = float(config["r"]), float(config["lora_alpha"])
        return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise BackendError(
            f"the adapter {name!r} has an {_CONFIG} without r and lora_alpha: {beside}",
            hint="take the one that PEFT saved with it",
        ) from error
