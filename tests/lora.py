"""Random LoRA adapters, written as PEFT writes them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch


def save_adapter(model: Any, folder: Path, seed: int, rank: int, alpha: float) -> Any:
    """Write matrices for a torch model's attention to a new folder, and give the model with them
    merged."""
    from safetensors.torch import save_file

    folder.mkdir()
    random = torch.Generator().manual_seed(seed)
    changed, tensors = copy.deepcopy(model), {}
    for number, layer in enumerate(changed.model.layers):
        for name in ("q_proj", "o_proj"):
            linear = getattr(layer.self_attn, name)
            first = torch.randn(rank, linear.in_features, generator=random) * 0.4
            second = torch.randn(linear.out_features, rank, generator=random) * 0.4
            key = f"base_model.model.model.layers.{number}.self_attn.{name}"
            tensors |= {f"{key}.lora_A.weight": first, f"{key}.lora_B.weight": second}
            linear.weight.data += alpha / rank * (second @ first)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank, "lora_alpha": alpha}))
    return changed
