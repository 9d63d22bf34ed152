"""Graphs written as text, and ONNX Runtime without optimisation to say what they compute."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import numpy_helper


def graph_of(text: str, **constants: np.ndarray) -> ir.Model:
    """`(float[1,4,6,6] x) => (float[1,4,6,6] y) { [name] y = Conv(x, W) }` and its constants → graph, opset 20."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> net {text}')
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items())
    onnx.checker.check_model(proto)
    return ir.from_proto(proto)


def run_graph(model: ir.Model, x: np.ndarray) -> list[np.ndarray]:
    """All outputs for the one input, node by node as the graph says."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})


def ops(model: ir.Model) -> list[str]:
    """Op types in graph order."""
    return [node.op_type for node in model.graph]


def node_of(model: ir.Model, name: str) -> ir.Node:
    """The node of that name."""
    return next(node for node in model.graph if node.name == name)


def constant(value: ir.Value | None) -> np.ndarray:
    """Content of an initializer."""
    assert value is not None and value.const_value is not None
    return value.const_value.numpy()


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """float32, standard normal."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def two_convs_with_norms(gamma_1: np.ndarray, gamma_2: np.ndarray, biases: bool = False) -> ir.Model:
    """conv(W) → BN₁ → Relu → conv(W) → BN₂, 4 channels, 6×6."""
    bias = ", b" if biases else ""
    constants = {"W": normal(4, 4, 3, 3) * 0.2, "g1": gamma_1, "g2": gamma_2}
    for index in "12":
        constants |= {f"b{index}": normal(4, seed=3), f"m{index}": normal(4, seed=4)}
        constants[f"v{index}"] = np.abs(normal(4, seed=5)) + np.float32(0.1)
    if biases:
        constants["b"] = normal(4, seed=6)
    return graph_of(
        f"""(float[1,4,6,6] x) => (float[1,4,6,6] y) {{
            [conv1] c1 = Conv<pads=[1,1,1,1]>(x, W{bias})
            [norm1] n1 = BatchNormalization(c1, g1, b1, m1, v1)
            [relu] r1 = Relu(n1)
            [conv2] c2 = Conv<pads=[1,1,1,1]>(r1, W{bias})
            [norm2] y = BatchNormalization(c2, g2, b2, m2, v2)
        }}""",
        **constants,
    )
