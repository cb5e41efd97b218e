"""LoRA adapters (Hu et al. 2021), which openvino-genai adds to a model as it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_edge.generation.lora import check_adapter, scale_of

if TYPE_CHECKING:
    from lepton_edge_openvino.requests import Requests


class Adapters:
    """Opened adapters by name. Raises `InputError` for one that is not of this model, which
    openvino-genai would pass over without a word."""

    def __init__(self, genai: Any, files: Mapping[str, Path], model: Any) -> None:
        layers = _layers(model)
        for name, file in files.items():
            check_adapter(name, file, layers)
        self._genai = genai
        self._opened = {name: genai.Adapter(str(file)) for name, file in files.items()}
        self._scales = {name: scale_of(name, file) for name, file in files.items()}
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
