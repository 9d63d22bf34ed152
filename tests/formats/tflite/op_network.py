"""A network of one operator, or few: in float and in codes, by torch, by ONNX Runtime and by TFLite's kernels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from onnx_text import graph_of

from edgeks.formats.tflite.layout import NHWC, inverse
from edgeks.formats.tflite.lower import Lowered, lower
from edgeks.formats.tflite.runtime import RESOLVERS
from edgeks.graph.kernels import kernel_reads
from edgeks.graph.passes.quantize_activations import FUSED, MOVING, Placement, Range, quantize_activations
from edgeks.graph.passes.quantize_biases import quantize_biases
from edgeks.graph.passes.quantize_kernels import quantize_kernels

Array = NDArray[np.float32]


@dataclass
class OpNetwork:
    """`text` computes y (y0, y1 … where there are several) of `shapes` a, b and `constants`, and `by_torch` the same.

    `by_torch` is None where torch has no such operator: ONNX Runtime says what is right then. `ranges` are what the
    inputs hold. `perm`: a goes through a Transpose first, so that it is held in another order of axes than it has.
    """

    text: str
    shapes: Sequence[Sequence[int]]
    by_torch: Callable[..., torch.Tensor | Sequence[torch.Tensor]] | None
    constants: dict[str, NDArray] = field(default_factory=dict)
    ranges: Sequence[tuple[float, float]] = ((-3.0, 4.0), (-2.0, 3.0))
    perm: Sequence[int] | None = None
    outputs: int = 1
    seed: int = 0

    def inputs(self) -> dict[str, Array]:
        """Numbers that int8 codes of the ranges stand for: the codes of an input are no source of error."""
        rng, found = np.random.default_rng(self.seed), {}
        for name, shape, bounds in zip("ab", self.shapes, self.ranges, strict=False):
            scale, zero_point = Range(*bounds).parameters("int8")
            codes = np.rint(rng.uniform(*bounds, tuple(shape)) / scale) * scale
            low, high = ((limit - zero_point) * scale for limit in (-128, 127))
            found[name] = np.clip(codes, low, high).astype(np.float32)
        if self.perm:
            found["a"] = np.ascontiguousarray(found["a"].transpose(inverse(tuple(self.perm))))
        return found

    def input_ranges(self) -> dict[str, Range]:
        """By the names of the graph."""
        return {self._fed(name): Range(*bounds) for name, bounds in zip("ab", self.ranges, strict=False)}

    def graph(self) -> ir.Model:
        """The float graph."""
        inputs = self.inputs()
        declared = ", ".join(f"float[{','.join(map(str, x.shape))}] {self._fed(name)}" for name, x in inputs.items())
        names = [f"y{index}" for index in range(self.outputs)] if self.outputs > 1 else ["y"]
        first = f"[permuted] a = Transpose<perm={list(self.perm)}>(permuted)\n" if self.perm else ""
        made = ", ".join(
            f"float[{','.join(f'd{i}_{d}' for d in range(len(shape)))}] {name}"
            for i, (name, shape) in enumerate(zip(names, [y.shape for y in self.wanted()], strict=True))
        )
        return graph_of(f"({declared}) => ({made}) {{ {first}{self.text} }}", **self.constants)

    def wanted(self) -> list[Array]:
        """What torch computes, or ONNX Runtime where it is the one to ask."""
        inputs = self.inputs()
        if self.perm:
            inputs["a"] = inputs["a"].transpose(self.perm)
        assert self.by_torch is not None
        made = self.by_torch(*(torch.from_numpy(np.ascontiguousarray(x)) for x in inputs.values()))
        return [y.numpy() for y in ([made] if isinstance(made, torch.Tensor) else made)]

    def feed(self) -> dict[str, Array]:
        """The inputs by the names of the graph."""
        return {self._fed(name): x for name, x in self.inputs().items()}

    def _fed(self, name: str) -> str:
        return "permuted" if name == "a" and self.perm else name


def in_codes(
    model: ir.Model, feed: dict[str, Array], given: Mapping[str, Range], *, own_scale: bool
) -> dict[str, float]:
    """Float graph → the same with a QuantizeLinear and a DequantizeLinear behind everything; gives each output's step.

    A Relu or Clip leaves with the operator before. What only moves values keeps their scale; an output does not, if
    `own_scale`.
    """
    quantize_kernels(model, "int8", file_format="tflite")
    computed = [value for node in model.graph for value in node.outputs if node.op_type != "DequantizeLinear"]
    ranges = {}
    for value, found in zip(computed, by_onnx_runtime(model, feed, computed), strict=True):
        ranges[str(value.name)] = Range(float(found.min()), float(found.max()))
    ranges |= given  # of the inputs
    placement = Placement()
    for value in (*model.graph.inputs, *computed):
        node = value.producer()
        uses = list(value.uses())
        if len(uses) == 1 and uses[0].node.op_type in FUSED and node is not None and not value.is_graph_output():
            continue
        placement.integer.add(value)
        source = None if node is None else node.inputs[0]
        # An own one in between would be an error that is amplified, and an average is rounded to its input's steps.
        keeps = not (own_scale and value.is_graph_output() and node is not None and node.op_type != "AveragePool")
        if node is not None and node.op_type in MOVING["tflite"] and keeps and source in placement.quantised:
            placement.tied[value] = source
        else:
            placement.ranged.append(value)
    names = [str(value.name) for value in model.graph.outputs]
    outputs = [placement.source(value) for value in model.graph.outputs]
    quantize_activations(model, placement, ranges, "int8")
    quantize_biases(model)
    assert not any(read.dequantize is None for read in kernel_reads(model) if read.node.op_type != "ConvTranspose")
    return {name: float(ranges[str(v.name).removesuffix("_float")].parameters("int8")[0])
            for name, v in zip(names, outputs, strict=True)}  # fmt: skip


def by_onnx_runtime(model: ir.Model, feed: dict[str, Array], more: Sequence[ir.Value] = ()) -> list[Array]:
    """The outputs, or the Values of `more`, node by node as the graph says."""
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    known = {output.name for output in proto.graph.output}
    for value in more:
        if value.name not in known:
            proto.graph.output.add().name = str(value.name)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run([str(v.name) for v in more] or None, feed)


def by_tflite(lowered: Lowered, feed: dict[str, Array], kernels: str, *, nhwc: bool = True) -> list[Array]:
    """The outputs in the graph's own order of axes."""
    interpreter = Interpreter(
        model_content=lowered.content, num_threads=1, experimental_op_resolver_type=RESOLVERS[kernels]
    )
    interpreter.allocate_tensors()
    for detail, x in zip(interpreter.get_input_details(), feed.values(), strict=True):
        fed = x.transpose(NHWC) if nhwc and x.ndim == 4 else x
        interpreter.set_tensor(detail["index"], np.ascontiguousarray(fed))
    interpreter.invoke()
    found = [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]
    return [y.transpose(inverse(NHWC)) if nhwc and y.ndim == 4 else y for y in found]


def lowered(model: ir.Model, *, nhwc: bool = True) -> Lowered:
    """The file of a graph; the graph is left as it was."""
    return lower(model.clone(), {}, nhwc=nhwc)
