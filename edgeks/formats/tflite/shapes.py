"""The shapes of a graph's Values, by onnx's inference."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx_ir as ir

from edgeks.errors import GraphError
from edgeks.formats.tflite.values import LOOP, body_of

SMALL = 1024  # numbers of a constant that may say what shape a Value has


def inferred_shapes(model: ir.Model) -> dict[str, tuple[int, ...]]:
    """Name of every Value whose shape is static → that shape.

    Raises:
        GraphError: an input has a dimension that is not known.
    """
    for value in model.graph.inputs:
        if value.shape is None or not all(isinstance(d, int) for d in value.shape):
            raise GraphError(f"input {value.name!r} has the shape {value.shape}; TFLite needs numbers: fix its sizes")
    for index, node in enumerate(model.graph.all_nodes()):  # inference goes by name
        for output in node.outputs:
            output.name = output.name or f"value_{index}_{output.index()}"
    return _shapes_in(_without_loops(ir.to_proto(model)))


def shapes_in_body(loop: ir.Node, outer: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The same for the body of a Loop and what it reads of its graph, whose shapes are `outer`.

    What is carried has one shape in all iterations.
    """
    graph, body = loop.graph, body_of(loop)
    assert graph is not None  # noqa: S101  # a node of a graph
    proto = onnx.ModelProto()
    proto.ir_version = onnx.IR_VERSION
    for domain, version in graph.opset_imports.items():
        proto.opset_import.add(domain=domain, version=version)
    proto.graph.CopyFrom(ir.serde.serialize_graph(body))
    del proto.graph.input[:]
    known = {value: outer.get(str(initial.name)) for value, initial in carried_in(loop) if initial is not None}
    known |= dict.fromkeys(body.inputs[:2], ())
    known |= {value: outer.get(str(value.name)) for value in captured_in(body)}
    for value, shape in known.items():
        type = onnx.TensorProto.DataType.Value((value.dtype or ir.DataType.FLOAT).name)
        if value.const_value is not None and value.const_value.size <= SMALL:
            proto.graph.initializer.append(ir.serde.serialize_tensor(value.const_value))
            proto.graph.initializer[-1].name = str(value.name)
            continue
        shape = tuple(value.const_value.shape.numpy()) if value.const_value is not None else shape
        if shape is not None:
            proto.graph.input.append(onnx.helper.make_tensor_value_info(str(value.name), type, shape))
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    return dict(outer) | _shapes_in(proto)


def carried_in(loop: ir.Node) -> list[tuple[ir.Value, ir.Value | None]]:
    """Inputs of the body that are carried from iteration to iteration, each with its initial value."""
    return list(zip(body_of(loop).inputs[2:], loop.inputs[2:], strict=True))


def captured_in(body: ir.Graph) -> list[ir.Value]:
    """Values of the graphs outside that a body reads, in the order of the first reader."""
    own = {*body.inputs, *(output for node in body for output in node.outputs)}
    read = [value for node in body for value in node.inputs] + list(body.outputs)
    return list(dict.fromkeys(value for value in read if value is not None and value not in own))


def _without_loops(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Loop(trips, , x) → y as Identity(x) → y, since what is carried keeps its shape; onnx does not rely on that."""
    for index in reversed(range(len(proto.graph.node))):
        loop = proto.graph.node[index]
        if loop.op_type == LOOP and loop.domain in ("", "ai.onnx"):
            carried = list(zip(loop.input[2:], loop.output, strict=False))
            del proto.graph.node[index]
            for made, (initial, final) in enumerate(carried):
                proto.graph.node.insert(index + made, onnx.helper.make_node("Identity", [initial], [final]))
    return proto


def _shapes_in(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    found = _static_shapes(proto)
    for node in proto.graph.node:  # in order: what is behind one that is wrong is wrong too
        if _without_ceil(node, found):
            found = _static_shapes(proto)
    return found


def _static_shapes(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    found = {}
    for info in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output):
        shape = info.type.tensor_type.shape
        if info.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in shape.dim):
            found[info.name] = tuple(d.dim_value for d in shape.dim)
    return found


def _without_ceil(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """ceil_mode of a pooling as padding, where onnx counts a window that begins beyond the map, as no runtime does.

    Only shapes are read from such a node. Gives whether it was changed.
    """
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    shape = shapes.get(node.input[0]) if node.input else None
    if node.op_type not in ("MaxPool", "AveragePool") or not given.get("ceil_mode") or shape is None:
        return False
    kernel, spatial = given["kernel_shape"], len(shape) - 2
    strides, dilations = (given.get(key, [1] * spatial) for key in ("strides", "dilations"))
    pads = list(given.get("pads", [0] * (2 * spatial)))
    wrong = False
    for axis, (size, k, s, d) in enumerate(zip(shape[2:], kernel, strides, dilations, strict=True)):
        low, high = pads[axis], pads[axis + spatial]
        reach = (k - 1) * d + 1
        outputs = -(-(size + low + high - reach) // s) + 1
        if (outputs - 1) * s >= size + low:
            outputs, wrong = outputs - 1, True
        pads[axis + spatial] = max((outputs - 1) * s + reach - size - low, 0)
    if wrong:
        kept = [attribute for attribute in node.attribute if attribute.name not in ("ceil_mode", "pads")]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute("pads", pads)])
    return wrong
