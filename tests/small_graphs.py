"""Small networks built node by node: one 3×3 kernel, applied `layers` times, as each kind of file stores it."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS, SIZE, CLASSES = 8, 6, 5
OPSETS = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]


def kernel(seed=0, shape=(CHANNELS, CHANNELS, 3, 3)):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * 0.1


def initializer(name, values):
    return numpy_helper.from_array(np.asarray(values), name)


def model(nodes, initializers, batch=1, output_shape=None, *, input_shape=(CHANNELS, SIZE, SIZE), output_type=None):
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *input_shape])],
        [helper.make_tensor_value_info("y", output_type or TensorProto.FLOAT, output_shape)],
        initializers,
    )
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=10)


def save(proto, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def layer_names(layers):
    return tuple(f"blocks.{index}.conv" for index in range(layers))


def batch_norm(index, rng):
    gamma = rng.uniform(0.5, 2, CHANNELS) * rng.choice([-1, 1], CHANNELS)
    values = (gamma, rng.normal(size=CHANNELS), rng.normal(size=CHANNELS), rng.uniform(0.5, 2, CHANNELS))
    return [initializer(f"bn{index}.{name}", v.astype(np.float32)) for name, v in zip("gbmv", values, strict=True)]


def head():
    nodes = [
        helper.make_node("GlobalAveragePool", ["features"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "head.weight"], ["y"], "head", transB=1),
    ]
    return nodes, [initializer("head.weight", kernel(9, (CLASSES, CHANNELS)))]


def fp32_shared(layers=4, batch=1):
    """conv(W) → BN_l → ReLU, one W; then a head of its own."""
    rng = np.random.default_rng(1)
    nodes, constants, value = [], [initializer("kernel", kernel())], "x"
    for index, name in enumerate(layer_names(layers)):
        statistics = batch_norm(index, rng)
        constants += statistics
        inputs = [f"c{index}", *(tensor.name for tensor in statistics)]
        out = "features" if index == layers - 1 else f"r{index}"
        nodes += [
            helper.make_node("Conv", [value, "kernel"], [f"c{index}"], name, pads=[1, 1, 1, 1]),
            helper.make_node("BatchNormalization", inputs, [f"b{index}"], f"bn{index}"),
            helper.make_node("Relu", [f"b{index}"], [out], f"relu{index}"),
        ]
        value = out
    more_nodes, more_constants = head()
    return model(nodes + more_nodes, constants + more_constants, batch, [batch, CLASSES])


def public_chain(layers=4, integer=False):
    """BN folded the usual way: a copy a_l·W per layer, in fp32 or as int8 behind a DequantizeLinear."""
    rng = np.random.default_rng(2)
    nodes, constants, value = [], [], "x"
    for index, name in enumerate(layer_names(layers)):
        factor = rng.uniform(0.3, 2, CHANNELS) * rng.choice([-1, 1], CHANNELS)
        folded = (kernel() * factor.reshape(-1, 1, 1, 1)).astype(np.float32)
        weight = f"w{index}"
        if integer:
            scale = np.abs(folded).max(axis=(1, 2, 3)) / np.float32(127)
            codes = np.rint(folded / scale.reshape(-1, 1, 1, 1)).astype(np.int8)
            constants += [initializer(f"w{index}_q", codes), initializer(f"w{index}_s", scale)]
            nodes.append(helper.make_node("DequantizeLinear", [f"w{index}_q", f"w{index}_s"], [weight], axis=0))
        else:
            constants.append(initializer(weight, folded))
        out = "features" if index == layers - 1 else f"r{index}"
        nodes.append(helper.make_node("Conv", [value, weight], [out], name, pads=[1, 1, 1, 1]))
        value = out
    more_nodes, more_constants = head()
    return model(nodes + more_nodes, constants + more_constants, 1, [1, CLASSES])


def quantised_kernel():
    scale = np.abs(kernel()).max(axis=(1, 2, 3)) / np.float32(127)
    return np.rint(kernel() / scale.reshape(-1, 1, 1, 1)).astype(np.int8), scale


def qdq(layers=4, gelu=False):
    """int8 QDQ as edgeks writes it: one int8 initializer, one DequantizeLinear per layer with a scale of its own."""
    codes, scale = quantised_kernel()
    constants = [initializer("kernel", codes), initializer("s", np.float32(0.05)), initializer("z", np.int8(0))]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q0"], "quantize_x"),
        helper.make_node("DequantizeLinear", ["q0", "s", "z"], ["d0"], "dequantize_x"),
    ]
    for index, name in enumerate(layer_names(layers)):
        after = "y" if index == layers - 1 else f"d{index + 1}"
        factor = np.linspace(-1.5, 1.5, CHANNELS).astype(np.float32) + index
        constants.append(initializer(f"ws{index}", scale * factor))
        nodes += [
            helper.make_node("DequantizeLinear", ["kernel", f"ws{index}"], [f"w{index}"], f"{name}.weight", axis=0),
            helper.make_node("Conv", [f"d{index}", f"w{index}"], [f"c{index}"], name, pads=[1, 1, 1, 1]),
            helper.make_node("Gelu" if gelu else "Relu", [f"c{index}"], [f"r{index}"], f"act{index}"),
            helper.make_node("QuantizeLinear", [f"r{index}", "s", "z"], [f"q{index + 1}"], f"q{index}"),
            helper.make_node("DequantizeLinear", [f"q{index + 1}", "s", "z"], [after], f"dq{index}"),
        ]
    return model(nodes, constants, 1, [1, CHANNELS, SIZE, SIZE])


def qoperator(layers=4):
    """int8 QOperator: the one int8 initializer is read by every QLinearConv; a QLinearAdd and a QGemm after them."""
    codes, scale = quantised_kernel()
    constants = [
        initializer("kernel", codes),
        initializer("s", np.float32(0.05)),
        initializer("z", np.int8(0)),
        initializer("head.weight", np.arange(CHANNELS * CLASSES, dtype=np.int8).reshape(CLASSES, CHANNELS)),
    ]
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q0"], "quantize_x")]
    for index, name in enumerate(layer_names(layers)):
        constants.append(initializer(f"ws{index}", scale * np.float32(1 + index)))
        inputs = [f"q{index}", "s", "z", "kernel", f"ws{index}", "z", "s", "z"]
        nodes.append(helper.make_node("QLinearConv", inputs, [f"q{index + 1}"], name, pads=[1, 1, 1, 1]))
    ms = {"domain": "com.microsoft"}
    nodes += [
        helper.make_node("QLinearAdd", ["q0", "s", "z", f"q{layers}", "s", "z", "s", "z"], ["sum"], "add", **ms),
        helper.make_node("QLinearGlobalAveragePool", ["sum", "s", "z", "s", "z"], ["p"], "pool", channels_last=0, **ms),
        helper.make_node("Flatten", ["p"], ["flat"], "flatten"),
        helper.make_node("QGemm", ["flat", "s", "z", "head.weight", "s", "z"], ["y"], "head", transB=1, **ms),
    ]
    constants[1] = initializer("s", np.float32(0.05))
    return model(nodes, constants, 1, [1, CLASSES])


def loop(trips=3):
    """A Loop whose body convolves with an initializer of the graph around it, and an If that does, too."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["go_on_out"], "go_on"),
            helper.make_node("Conv", ["state", "kernel"], ["conv"], "body.conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["conv"], ["state_out"], "body.relu"),
        ],
        "body",
        [
            helper.make_tensor_value_info("trip", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [1, CHANNELS, SIZE, SIZE]),
        ],
        [
            helper.make_tensor_value_info("go_on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_out", TensorProto.FLOAT, [1, CHANNELS, SIZE, SIZE]),
        ],
    )
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(op, inputs, [name], f"{name}.{op}", **attributes)],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, CHANNELS, SIZE, SIZE])],
        )
        for name, op, inputs, attributes in (
            ("then", "Conv", ["looped", "kernel"], {"pads": [1, 1, 1, 1]}),
            ("else", "Identity", ["looped"], {}),
        )
    }
    nodes = [
        helper.make_node("Loop", ["trips", "yes", "x"], ["looped"], "loop", body=body),
        helper.make_node("If", ["yes"], ["y"], "if", **branches),
    ]
    constants = [
        initializer("kernel", kernel()),
        initializer("trips", np.int64(trips)),
        initializer("yes", np.bool_(True)),
    ]
    return model(nodes, constants, 1, [1, CHANNELS, SIZE, SIZE])


def check_runs(path):
    """The file is a real one: ONNX Runtime loads and runs it."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.ones((1, CHANNELS, SIZE, SIZE), np.float32)})


def external(proto, path, location="weights.bin", **changes):
    """Move the constant `kernel` to external data; `changes` overwrite entries of its record."""
    tensor = next(t for t in proto.graph.initializer if t.name == "kernel")
    data = tensor.raw_data
    record = {"location": location, "offset": "0", "length": str(len(data)), **changes}
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in record.items():
        tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=value))
    if ".." not in location and not location.startswith("/"):
        (path.parent / location).write_bytes(data)
    return save(proto, path)
