"""Precision written into the graph: what is computed in 16 bits, and what stays in 32.

TensorRT's networks are strongly typed: a tensor has the type that the graph says. So half precision
is a pass over the ONNX graph. Weights, and what is computed from them, become 16 bits, except for
the operations in which half overflows or loses too much:

- normalization, softmax, reductions, powers and exponentials; where a normalization is written out,
  also the product with its root;
- sums and masks that nothing but those read: the residual sum before a normalization, the mask
  before a softmax;
- what comes from the inputs' integers alone: masks, positions, rotary angles. It is small, and of
  positions beyond 2,048 fp16 has not every one;
- loops and branches, whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import onnx_ir as ir

Half = Literal["fp16", "bf16"]

_KEPT = frozenset(
    {
        "BatchNormalization",
        "CumSum",
        "Cos",
        "Exp",
        "GroupNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "Log",
        "LogSoftmax",
        "LpNormalization",
        "MeanVarianceNormalization",
        "Pow",
        "RMSNormalization",
        "Reciprocal",
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMean",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
        "SimplifiedLayerNormalization",
        "Sin",
        "Softmax",
        "Softplus",
        "Sqrt",
        # Their state is a sum over the whole text.
        "GRU",
        "LSTM",
        "RNN",
    }
)
# Cheap ones, which follow those that read them.
_FOLLOWING = frozenset(
    {
        "Abs",
        "Add",
        "Clip",
        "Concat",
        "Div",
        "Expand",
        "Flatten",
        "Identity",
        "Max",
        "Min",
        "Mul",
        "Neg",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Sub",
        "Sum",
        "Transpose",
        "Unsqueeze",
        "Where",
    }
)
# What a value is scaled by in a normalization that is written out: x * rsqrt(mean(x²)). In fp16 a
# large x is infinite, and the reciprocal of its root has few bits.
_STATISTICS = frozenset(
    {"Pow", "Reciprocal", "Sqrt", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceSum"}
)
_UNCHANGING = frozenset({"Cast", "Clip", "Expand", "Identity", "Max", "Reshape", "Unsqueeze"})
_PRODUCTS = frozenset({"Conv", "Einsum", "GRU", "Gemm", "LSTM", "MatMul", "RNN"})
# Below this fp16 has less than 8 bits for a scale, until none is left.
SMALLEST_SCALE = 2.0**-17


def write_precision(model: ir.Model, half: Half, half_ports: Collection[str] = ()) -> None:
    """Change ``model``, which computes in fp32, to compute in ``half`` where that is safe.

    Its inputs and outputs keep their types, except for those in ``half_ports``.
    """
    import onnx_ir.passes.common as passes

    passes.InlinePass()(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.ShapeInferencePass()(model)
    _multiply_outer_products(model.graph)
    _Typing(model.graph, half, half_ports).write()
    passes.RemoveUnusedNodesPass()(model)
    passes.TopologicalSortPass()(model)
    passes.NameFixPass()(model)


def _multiply_outer_products(graph: ir.Graph) -> None:
    """Matrix products over one element, such as rotary angles, as the multiplications that they
    are: in fp32, in which they have to be, not every GPU has a matrix product."""
    for node in graph:
        if node.op_type == "MatMul":
            shapes = [value.shape for value in _inputs(node)]
            if all(shape is not None and len(shape) > 1 for shape in shapes) and (
                shapes[0][-1] == 1
            ):
                node.op_type = "Mul"


def product_types(graph: ir.Graph) -> set[str]:
    """What matrix products are computed in: FLOAT, FLOAT16, BFLOAT16. Those of loops and branches
    too; their types are not inferred, and they stay in fp32."""
    found = set()
    for node in graph:
        inner = list(_inner_nodes(node))
        if node.op_type in _PRODUCTS and node.outputs[0].dtype is not None:
            found.add(node.outputs[0].dtype.name)
        if any(each.op_type in _PRODUCTS for each in inner):
            found.add("FLOAT")
    return found


class _Typing:
    def __init__(self, graph: ir.Graph, half: Half, half_ports: Collection[str]) -> None:
        import onnx_ir as ir

        self._graph = graph
        self._full = ir.DataType.FLOAT
        self._half = ir.DataType.FLOAT16 if half == "fp16" else ir.DataType.BFLOAT16
        self._half_ports = half_ports
        self._largest = 65504.0 if half == "fp16" else 3.3895313892515355e38
        self._nodes = list(graph)
        self._learned = self._from_weights()
        self._in_full = self._kept_nodes()
        # The other form of a value, where one was made.
        self._forms: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def write(self) -> None:
        ports = [value for value in self._graph.inputs if value.name in self._half_ports]
        for value in ports:
            value.dtype = self._half
        for node in self._nodes:
            if _subgraphs(node):
                self._feed_subgraphs(node)
            self._type(node)
        self._type_outputs()

    # Which nodes stay in fp32.

    def _from_weights(self) -> set[ir.Value]:
        """The values that a weight has a part in, the cache's keys and values among them."""
        found = {value for value in self._graph.inputs if value.dtype == self._full}
        found |= {
            value
            for value in self._graph.initializers.values()
            if value.dtype == self._full and sum(size > 1 for size in _sizes(value)) >= 2
        }
        for node in self._nodes:
            # What is dequantized is a weight, or an activation that was quantized.
            if node.op_type == "DequantizeLinear" or any(value in found for value in _inputs(node)):
                found.update(value for value in node.outputs if value.dtype == self._full)
        return found

    def _kept_nodes(self) -> set[ir.Node]:
        kept = {node for node in self._nodes if self._is_kept(node)}
        outputs = set(self._graph.outputs)
        for node in reversed(self._nodes):
            if node.op_type not in _FOLLOWING or outputs.intersection(node.outputs):
                continue
            readers = [use.node for value in node.outputs for use in value.uses()]
            if readers and all(reader in kept for reader in readers):
                kept.add(node)
        return kept

    def _is_kept(self, node: ir.Node) -> bool:
        if node.op_type in _KEPT or _subgraphs(node):
            return True
        if node.op_type == "DequantizeLinear":
            return _has_tiny_scale(node)
        if node.op_type in ("Div", "Mul") and any(
            value in self._learned and _is_statistic(value) for value in _inputs(node)
        ):
            return True
        return not any(value in self._learned for value in (*_inputs(node), *node.outputs))

    # Writing it.

    def _type(self, node: ir.Node) -> None:
        wanted = self._full if node in self._in_full else self._half
        if node.op_type == "QuantizeLinear" and (value := node.inputs[0]) is not None:
            # As it comes: what it gives is 8 bits in any case.
            wanted = self._full if _has_tiny_scale(node) else value.dtype
        if node.op_type == "Cast":
            self._type_cast(node, wanted)
            return
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype in (self._full, self._half):
                node.replace_input_with(index, self._form(value, wanted))
        for value in node.outputs:
            if value.dtype == self._full:
                value.dtype = wanted

    def _type_cast(self, node: ir.Node, wanted: ir.DataType) -> None:
        import onnx_ir as ir

        if node.attributes["to"].as_int() == self._full:
            node.attributes["to"] = ir.AttrInt64("to", wanted)
            node.outputs[0].dtype = wanted

    def _type_outputs(self) -> None:
        for index, value in enumerate(self._graph.outputs):
            wanted = self._half if value.name in self._half_ports else self._full
            if value.dtype in (self._full, self._half) and value.dtype != wanted:
                name, value.name = value.name, f"{value.name}_{value.dtype.name.lower()}"
                other = self._form(value, wanted)
                other.name, other.shape = name, value.shape
                self._graph.outputs[index] = other

    def _form(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        """The value in that type: itself, or one made for it."""
        if value.dtype == wanted:
            return value
        if (value, wanted) not in self._forms:
            make = self._constant if value.is_initializer() else self._cast
            self._forms[value, wanted] = make(value, wanted)
        return self._forms[value, wanted]

    def _constant(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        """A weight or constant in that type. What is beyond its range becomes its largest number:
        a mask's minus infinity would give NaN where a whole row is masked."""
        import numpy as np
        import onnx_ir as ir

        assert value.const_value is not None
        array = value.const_value.numpy().clip(-self._largest, self._largest)
        # Not ascontiguousarray, which makes a vector of a scalar.
        tensor = ir.tensor(np.asarray(array.astype(wanted.numpy()), order="C"))
        made = ir.Value(
            name=f"{value.name}.{wanted.name.lower()}",
            shape=value.shape,
            type=ir.TensorType(wanted),
            const_value=tensor,
        )
        self._graph.register_initializer(made)
        return made

    def _cast(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        source = value
        if wanted == self._half and value not in self._learned:
            source = self._clipped(value)
        return self._insert(
            source, cast_node(source, wanted, f"{value.name}.{wanted.name.lower()}")
        )

    def _clipped(self, value: ir.Value) -> ir.Value:
        import numpy as np
        import onnx_ir as ir

        bounds = []
        for end, bound in (("lowest", -self._largest), ("largest", self._largest)):
            name = f"lepton_{end}_half"
            if name not in self._graph.initializers:
                array = np.array(bound, np.float32)
                made = ir.Value(
                    name=name,
                    shape=ir.Shape(()),
                    type=ir.TensorType(self._full),
                    const_value=ir.tensor(array),
                )
                self._graph.register_initializer(made)
            bounds.append(self._graph.initializers[name])
        node = ir.Node("", "Clip", [value, *bounds], name=f"{value.name}.clipped")
        node.outputs[0].name = f"{value.name}.clipped"
        node.outputs[0].type = ir.TensorType(self._full)
        node.outputs[0].shape = value.shape
        return self._insert(value, node)

    def _insert(self, source: ir.Value, node: ir.Node) -> ir.Value:
        """Put a node right behind what it reads."""
        producer = source.producer()
        if producer is None:
            self._graph.insert_before(self._graph[0], node)
        else:
            self._graph.insert_after(producer, node)
        return node.outputs[0]

    def _feed_subgraphs(self, node: ir.Node) -> None:
        """What a loop or branch reads from outside, in fp32: it computes in that."""
        for inner in _inner_nodes(node):
            for index, value in enumerate(inner.inputs):
                if value is not None and value.dtype == self._half:
                    inner.replace_input_with(index, self._form(value, self._full))


def cast_node(value: ir.Value, to: ir.DataType, name: str) -> ir.Node:
    """A Cast, not in a graph yet; its output has the same name."""
    import onnx_ir as ir

    node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", to)], name=name)
    output = node.outputs[0]
    output.name, output.type, output.shape = name, ir.TensorType(to), value.shape
    return node


def _inputs(node: ir.Node) -> Iterable[ir.Value]:
    return (value for value in node.inputs if value is not None)


def _sizes(value: ir.Value) -> list[int]:
    return [size for size in value.shape or () if isinstance(size, int)]


def _is_statistic(value: ir.Value) -> bool:
    node = value.producer()
    while node is not None and node.op_type in _UNCHANGING and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type in _STATISTICS


def _has_tiny_scale(node: ir.Node) -> bool:
    """Whether fp16 would lose bits of a scale, and so of a whole channel of weights."""
    scale = node.inputs[1]
    if scale is None or scale.const_value is None:
        return True
    return bool((abs(scale.const_value.numpy()) < SMALLEST_SCALE).any())


def _subgraphs(node: ir.Node) -> list[Any]:
    import onnx_ir as ir

    return [
        graph
        for attribute in node.attributes.values()
        if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        for graph in (
            (attribute.value,) if attribute.type == ir.AttributeType.GRAPH else attribute.value
        )
    ]


def _inner_nodes(node: ir.Node) -> Iterator[ir.Node]:
    for graph in _subgraphs(node):
        for inner in graph:
            yield inner
            yield from _inner_nodes(inner)
