"""Torch models: the module around them that gives a task's output, and `TorchSource`."""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lepton_edge.backend import Graph, TensorSpec
from lepton_edge.builder.source import LoadedSource, first_line, output_shape
from lepton_edge.builder.tokenizers import (
    SourceTokenizer,
    from_tokenizer,
    tokenizer_from_file,
    tokenizer_from_folder,
)
from lepton_edge.bundle.manifest import Source
from lepton_edge.errors import SourceError, UnsupportedModelError
from lepton_edge.runtime.text import ATTENTION_MASK, INPUT_IDS, TOKEN_TYPE_IDS
from lepton_edge.tasks import session_task
from lepton_edge.tasks.base import Facts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from lepton_edge.backend import Tensors
    from lepton_edge.recipe import Recipe

_INPUTS = (INPUT_IDS, ATTENTION_MASK, TOKEN_TYPE_IDS)


@dataclass(frozen=True)
class TorchSource:
    """Any `torch.nn.Module` as a source, with what a folder would say about it.

    ``module`` is called with ``inputs``, a subset of input_ids, attention_mask and token_type_ids
    (each int64 [batch, length]), by position. It returns what the task reads, such as logits
    [batch, labels] for text-classification, or a tuple of tensors in the order of the task's
    ``outputs``; for feature-extraction an embedding [batch, dimension], or token vectors [batch,
    length, dimension] that are then pooled. Without ``attention_mask`` it is never
    given padding: only texts of equal length share a batch.

    ``tokenizer`` is a `tokenizers.Tokenizer`, a tokenizer.json, or a folder with one.
    """

    module: torch.nn.Module
    tokenizer: Tokenizer | str | Path
    task: str
    labels: Sequence[str] | None = None
    inputs: Sequence[str] = (INPUT_IDS, ATTENTION_MASK)
    max_length: int = 512
    license: str | None = None

    def load(self, recipe: Recipe) -> LoadedSource:
        """Raises `SourceError`."""
        unknown = [name for name in self.inputs if name not in _INPUTS]
        if unknown or INPUT_IDS not in self.inputs:
            raise SourceError(
                f"inputs are {list(self.inputs)}: {INPUT_IDS}, and any of {', '.join(_INPUTS[1:])}"
            )
        tokenizer = self._tokenizer()
        return LoadedSource(
            source=Source(
                kind="torch",
                name=type(self.module).__name__,
                architecture=type(self.module).__name__,
                sha256=hash_state(self.module),
            ),
            original=TorchOriginal(self.module, tuple(self.inputs)),
            task=recipe.task or self.task,
            facts=Facts(
                labels=tuple(self.labels) if self.labels else None,
                mask_token=tokenizer.mask_token,
            ),
            tokenizer=tokenizer.json,
            pad_id=tokenizer.pad_id,
            max_length=self.max_length,
            license=self.license,
        )

    def _tokenizer(self) -> SourceTokenizer:
        if isinstance(self.tokenizer, (str, Path)):
            path = Path(self.tokenizer)
            return tokenizer_from_folder(path) if path.is_dir() else tokenizer_from_file(path)
        return from_tokenizer(self.tokenizer)


class TorchOriginal:
    """An `Original` that is a torch module, called with ``inputs`` by position.

    ``name`` is for messages; the module's class where absent.
    """

    def __init__(
        self, module: torch.nn.Module, inputs: tuple[str, ...], name: str | None = None
    ) -> None:
        self._module = module.eval()
        self._inputs = inputs
        self._name = name or type(module).__name__
        self._wrapped: torch.nn.Module | None = None
        self._outputs: tuple[str, ...] = ()

    def graph(self, task: str, config: Any, work: Path) -> Graph:
        """Raises `UnsupportedModelError` where torch cannot export the module."""
        wanted = session_task(task, "a torch module").outputs
        self._wrapped = TaskOutput(
            self._module,
            self._inputs,
            outputs=len(wanted),
            pooling=getattr(config, "pooling", None),
            normalize=getattr(config, "normalize", False),
        ).eval()
        self._outputs = tuple(wanted)
        # Distinct tensors: with one passed twice the export reads one input for the other.
        example = tuple(_example(name) for name in self._inputs)
        dynamic = tuple({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for _ in example)
        try:
            with torch.no_grad(), warnings.catch_warnings(), _recurrent_loops():
                warnings.simplefilter("ignore")  # torch's own deprecations: nothing to act on
                program = torch.export.export(
                    self._wrapped, example, dynamic_shapes=(dynamic,), strict=False
                )
                outputs = self._wrapped(*example)
        except SourceError:
            raise
        except Exception as error:  # torch.export raises many kinds
            raise UnsupportedModelError(
                f"torch cannot export {self._name}: {first_line(error)}",
                hint="export it to ONNX with its own tools and build from the file: "
                "source: {onnx: model.onnx}",
            ) from error
        specs = tuple(
            TensorSpec(
                name, "float32", output_shape("the module", name, output.shape, dims, config)
            )
            for (name, dims), output in zip(wanted.items(), outputs, strict=True)
        )
        return Graph(
            inputs=tuple(TensorSpec(name, "int64", ("batch", "length")) for name in self._inputs),
            outputs=specs,
            program=program,
        )

    def run(self, feeds: Tensors) -> dict[str, NDArray[np.float32]]:
        assert self._wrapped is not None, "graph() comes first"
        try:
            with torch.no_grad():
                outputs: tuple[torch.Tensor, ...] = self._wrapped(
                    *(torch.from_numpy(feeds[name]) for name in self._inputs)
                )
        except Exception as error:  # the module is anyone's
            raise SourceError(
                f"{self._name} cannot answer a text of {feeds[INPUT_IDS].shape[1]} tokens: "
                f"{type(error).__name__}: {first_line(error)}",
                hint="does the tokenizer belong to it, and does it take texts of max_length?",
            ) from error
        return {name: output.numpy() for name, output in zip(self._outputs, outputs, strict=True)}

    def copy_in(self, dtype: torch.dtype) -> TorchOriginal:
        """A copy whose weights and arithmetic are of another number format. After `graph`."""
        assert self._wrapped is not None, "graph() comes first"
        other = copy.deepcopy(self)
        assert other._wrapped is not None
        other._wrapped.to(dtype)
        return other


class TaskOutput(torch.nn.Module):
    """Calls a model and gives the tensors that the task reads.

    Pooling and normalization are those of sentence-transformers: ``mean`` over the tokens that are
    not padding or ``cls``, the first token; then division by the L2 norm.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        inputs: tuple[str, ...],
        outputs: int,
        pooling: str | None,
        normalize: bool,
    ) -> None:
        super().__init__()
        self.module = module
        self.inputs = inputs
        self.outputs = outputs
        self.pooling = pooling
        self.normalize = normalize

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = dict(zip(self.inputs, tensors, strict=True))
        found = self.module(*tensors)
        outputs = found if isinstance(found, tuple) else (found,)
        if len(outputs) != self.outputs or not all(
            isinstance(output, torch.Tensor) for output in outputs
        ):
            raise SourceError(
                f"the module returns a {type(found).__name__}; a task reads "
                f"{'one tensor' if self.outputs == 1 else f'{self.outputs} tensors'}",
                hint="wrap it in a module that returns its logits, or its token vectors",
            )
        if self.pooling:
            (output,) = outputs
            if output.ndim == 3:
                output = pool(output, given.get(ATTENTION_MASK), self.pooling)
            if self.normalize:
                output = torch.nn.functional.normalize(output, p=2.0, dim=1)
            outputs = (output,)
        return tuple(output.float() for output in outputs)  # of a module in half precision


def _recurrent_loops() -> ExitStack:
    """Inside, LSTM and GRU layers are exported as a loop over the tokens.

    torch.export would otherwise unroll them to the length of the example. torch keeps this to
    itself so far, for its own ONNX exporter.
    """
    stack = ExitStack()
    try:
        patches: Any = import_module("torch.export._patches")
        stack.enter_context(patches.register_lstm_while_loop_decomposition())
        stack.enter_context(patches.register_gru_while_loop_decomposition())
    except (ImportError, AttributeError):
        pass  # another torch: such layers are refused by the export, everything else works
    return stack


def pool(hidden: torch.Tensor, mask: torch.Tensor | None, pooling: str) -> torch.Tensor:
    """[batch, length, dimension] to [batch, dimension]."""
    if pooling == "cls":
        return hidden[:, 0]
    if mask is None:
        mask = torch.ones_like(hidden[:, :, 0], dtype=torch.long)
    kept = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1e-9)


def hash_state(module: torch.nn.Module) -> str:
    """SHA-256 over a module's parameters and buffers by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not isinstance(tensor, torch.Tensor):  # a module may keep a state of any other kind
            continue
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _example(name: str) -> torch.Tensor:
    # Sizes that are neither 0 nor 1, which torch.export would treat as fixed.
    if name == INPUT_IDS:
        return torch.arange(2 * 9).reshape(2, 9) % 5 + 1
    return (
        torch.ones(2, 9, dtype=torch.long)
        if name == ATTENTION_MASK
        else torch.zeros(2, 9, dtype=torch.long)
    )
