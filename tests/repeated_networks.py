"""Float ONNX networks whose blocks repeat, node by node: each block reads shared kernels, all else is its own."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSETS = [helper.make_opsetid("", 20)]
BLOCKS = ("plain", "residual", "mixer", "gated")


class RepeatedNetwork:
    """Blocks one after another; `levels` are (kind of block, how many, what follows: "pool", "none")."""

    def __init__(self, levels, channels=6, size=12, seed=0):
        self.rng = np.random.default_rng(seed)
        self.channels, self.size = channels, size
        self.nodes, self.constants, self.layers = [], {}, []
        self.own_kernels = 0
        value = self.layer("x", "stem", self.constant("stem.w", (channels, 3, 3, 3)))
        value = self.op("Relu", [value])
        for number, (kind, count, after) in enumerate(levels):
            kernels = self.kernels(kind, f"level{number}")
            for index in range(count):
                value = getattr(self, kind)(value, f"level{number}.{index}", kernels)
            if after == "pool":
                value = self.op("MaxPool", [value], kernel_shape=[2, 2], strides=[2, 2])
        value = self.op("GlobalAveragePool", [value])
        value = self.op("Flatten", [value])
        head = self.constant("head.w", (4, channels))
        self.nodes.append(helper.make_node("Gemm", [value, head], ["y"], "head", transB=1))

    def constant(self, name, shape, scale=0.3):
        self.constants[name] = (self.rng.standard_normal(shape) * scale).astype(np.float32)
        return name

    def op(self, kind, inputs, name="", **attributes):
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name or f"{kind}_{len(self.nodes)}", **attributes))
        return output

    def layer(self, value, name, kernel, bias=None, group=1):
        size = self.constants[kernel].shape[2]
        self.layers.append(name)
        inputs = [value, kernel, *([bias] if bias else [])]
        return self.op("Conv", inputs, name, pads=[size // 2] * 4, kernel_shape=[size, size], group=group)

    def norm(self, value, name):
        for part in "gbmv":
            content = self.rng.uniform(0.5, 1.5, self.channels) if part in "gv" else self.rng.normal(size=self.channels)
            self.constants[f"{name}.{part}"] = content.astype(np.float32)
        return self.op("BatchNormalization", [value, *(f"{name}.{part}" for part in "gbmv")], f"{name}.norm")

    def kernels(self, kind, name):
        width = self.channels
        if kind == "mixer":
            return [self.constant(f"{name}.dw", (width, 1, 3, 3)), self.constant(f"{name}.pw", (width, width, 1, 1))]
        return [self.constant(f"{name}.k", (width, width, 3, 3))]

    def plain(self, value, name, kernels):
        return self.op("Relu", [self.norm(self.layer(value, name, kernels[0]), name)])

    def residual(self, value, name, kernels):
        inner = self.plain(value, f"{name}.a", kernels)
        inner = self.norm(self.layer(inner, f"{name}.b", kernels[0]), f"{name}.b")
        return self.op("Relu", [self.op("Add", [inner, value])])

    def mixer(self, value, name, kernels):
        inner = self.op("Gelu", [self.layer(value, f"{name}.dw", kernels[0], group=self.channels)])
        value = self.op("Add", [self.norm(inner, f"{name}.dw"), value])
        return self.norm(self.op("Gelu", [self.layer(value, f"{name}.pw", kernels[1])]), f"{name}.pw")

    def gated(self, value, name, kernels):
        inner = self.norm(self.layer(value, name, kernels[0]), name)
        gate = self.op("Flatten", [self.op("GlobalAveragePool", [inner])])
        for part, activation, shape in (("fc1", "Relu", (2, self.channels)), ("fc2", "Sigmoid", (self.channels, 2))):
            self.layers.append(f"{name}.{part}")
            kernel = self.constant(f"{name}.{part}.w", shape)
            gate = self.op(activation, [self.op("Gemm", [gate, kernel], f"{name}.{part}", transB=1)])
        self.constants.setdefault("map", np.array([1, self.channels, 1, 1], np.int64))
        inner = self.op("Mul", [inner, self.op("Reshape", [gate, "map"])])
        return self.op("Relu", [self.op("Add", [inner, value])])

    def proto(self):
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, self.size, self.size])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
            [numpy_helper.from_array(content, name) for name, content in self.constants.items()],
        )
        return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=OPSETS, ir_version=10))

    def save(self, folder: Path):
        path = folder / "net.onnx"
        path.write_bytes(self.proto().SerializeToString())
        samples = folder / "samples.npz"
        np.savez(samples, self.rng.standard_normal((6, 3, self.size, self.size)).astype(np.float32))
        return path, samples
