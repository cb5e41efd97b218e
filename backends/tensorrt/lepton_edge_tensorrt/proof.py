"""A typed graph computed by ONNX Runtime: what proves an artifact where there is no GPU for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_edge.backend import Session, check_feeds
from lepton_edge.errors import BackendError, InferenceError
from lepton_edge_tensorrt.typed import cast_node

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from lepton_edge.backend import Compiled, Tensors


class ProofSession(Session):
    """The graph as TensorRT is given it, on this machine's CPU.

    ``file`` is written of what `computable` gives: each result is rounded to the type that the
    graph says, as it will be on the device. The order of sums inside an operation is ONNX Runtime's
    own.
    """

    def __init__(self, file: Path, compiled: Compiled) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # fatal: an error is raised, and needs no second line
        # Else products with small weights would round their activations to 8 bits as well.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's errors have no common class
            raise BackendError(
                f"ONNX Runtime {onnxruntime.__version__} cannot open the typed graph: "
                f"{last_line(error)}",
                hint="build with precision: fp32, or on a machine with the target's GPU",
            ) from error
        self.inputs = compiled.inputs
        self.outputs = compiled.outputs
        self.device = "CPU"
        self.details = {
            "compute": str(compiled.settings.get("compute", "")),
            "through": f"onnxruntime {onnxruntime.__version__}",
        }

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        check_feeds(self.inputs, feeds)
        session = self._session
        if session is None:
            raise InferenceError("the session is closed")
        names = [spec.name for spec in self.outputs]
        try:
            return dict(zip(names, session.run(names, dict(feeds)), strict=True))
        except Exception as error:
            raise InferenceError(
                f"ONNX Runtime could not run the model: {last_line(error)}"
            ) from error

    def close(self) -> None:
        self._session = None


def computable(model: ir.Model) -> ir.Model:
    """The same numbers in operations that ONNX Runtime has on a CPU: in fp32, with each result that
    the graph says is in 16 bits rounded to them.

    Of bf16 it has next to no operations. Of fp16 it has few, and computes the others in fp32
    without rounding in between: what overflows on the device would not overflow here.

    Changes ``model``. Its inputs and outputs keep their types.
    """
    import onnx_ir as ir

    full = ir.DataType.FLOAT
    for value in list(model.graph.initializers.values()):
        if _is_half(value) and value.const_value is not None:
            value.const_value = ir.tensor(value.const_value.numpy().astype("float32"))
            value.dtype = full
    nodes = list(model.graph)
    for value in model.graph.inputs:
        if _is_half(value):
            back = cast_node(value, full, f"{value.name}.back")
            _move_readers(value, back)
            model.graph.insert_before(nodes[0], back)
    for node in nodes:
        if node.op_type == "Cast" and _is_half(node.outputs[0]):
            _round_after(model.graph, node)
            continue
        for value in node.outputs:
            if not _is_half(value):
                continue
            if _is_small_weight(node):
                value.dtype = full
            else:
                _round(model.graph, node, value)
    return model


def _is_half(value: ir.Value) -> bool:
    import onnx_ir as ir

    return value.dtype in (ir.DataType.BFLOAT16, ir.DataType.FLOAT16)


def _is_small_weight(node: ir.Node) -> bool:
    """A weight of 8 or 4 bits is not rounded a second time: it changes next to nothing, and ONNX
    Runtime multiplies with it as it is stored."""
    weight = node.inputs[0] if node.op_type == "DequantizeLinear" else None
    return weight is not None and weight.is_initializer()


def _round_after(graph: ir.Graph, cast: ir.Node) -> None:
    """A cast to 16 bits gives them: what reads it reads fp32 again."""
    import onnx_ir as ir

    value = cast.outputs[0]
    back = cast_node(value, ir.DataType.FLOAT, f"{value.name}.back")
    _move_readers(value, back)
    graph.insert_after(cast, back)


def _round(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    import onnx_ir as ir

    half, value.dtype = value.dtype, ir.DataType.FLOAT
    assert half is not None
    down = cast_node(value, half, f"{value.name}.down")
    up = cast_node(down.outputs[0], ir.DataType.FLOAT, f"{value.name}.rounded")
    _move_readers(value, up, but=down)
    graph.insert_after(node, [down, up])
    for index, output in enumerate(graph.outputs):
        if output is value:
            name, value.name = value.name, f"{value.name}.whole"
            down.outputs[0].name = name
            graph.outputs[index] = down.outputs[0]


def _move_readers(value: ir.Value, to: ir.Node, but: ir.Node | None = None) -> None:
    for use in list(value.uses()):
        if use.node not in (to, but):
            use.node.replace_input_with(use.idx, to.outputs[0])


def last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
