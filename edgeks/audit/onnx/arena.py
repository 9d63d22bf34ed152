"""Peak activation bytes by liveness: the most bytes of activations that are needed at one time.

The model. Ops run in the order of the file. A tensor lives from the op that makes it to the last op that reads it;
graph inputs and outputs live all the time. At each op, everything alive is added up: what the op reads, what it writes,
and what waits for a later op; the largest sum is the peak. No op is taken to work in place, and nothing is lost between
buffers. So this depends on no runtime's memory planner: no planner that keeps an op's inputs and outputs apart can do
with less, and it is not yet the arena of one runtime.

- Reshape, Flatten, Squeeze, Unsqueeze, Identity and Dropout share the buffer they read.
- DequantizeLinear → op → QuantizeLinear, where the op is in INTEGER_KERNELS and all the activations it reads are
  dequantised, runs as one integer op: it reads and writes the quantised tensors, and the float ones do not exist.
  A DequantizeLinear that any other op reads (Gelu, BatchNormalization, a graph output) makes a float32 tensor.
- Constants, and what is computed from constants alone, are no activations; but a kernel dequantised for a float op is.
- The body of If, Loop and Scan adds its own peak to the op that holds it (of several bodies, the largest).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from onnx import GraphProto, NodeProto

from edgeks.audit.onnx.pointwise import POINTWISE
from edgeks.audit.onnx.shapes import Activations, infer_activations
from edgeks.audit.timeline import Activation, Arena, Moment, Peak, Timeline
from edgeks.model_files.onnx_file import ModelFile, node_label, subgraphs

INTEGER_KERNELS = frozenset(
    {
        # arithmetic: ONNX Runtime 1.31 has a kernel that computes on the codes
        "Conv", "Gemm", "MatMul", "Add", "Mul", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid", "Softmax",
        # clamps: done by the saturation of the op ahead of them
        "Relu", "Clip",
        # movement: codes are copied as they are
        "Concat", "Split", "Slice", "Gather", "Resize", "Transpose", "Expand", "MaxPool",
        "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity",
    }
)  # fmt: skip
# These run on dequantised inputs as integer ops even when their result stays in float.
FLOAT_RESULT = frozenset({"Gemm", "MatMul"})
# These need both operands dequantised: with a float kernel or factor the runtime computes in float.
TWO_OPERANDS = frozenset({"Conv", "Gemm", "MatMul", "Add", "Mul"})
# These merge into the integer op ahead of them when only they read it.
CLAMPS = frozenset({"Relu", "Clip"})
ALIASES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})


def measure_arena(model: ModelFile, activations: Activations | None = None) -> Arena:
    """ModelFile → Arena (see the top of this file for the model); `activations`: its, where they are known already."""
    activations = activations or infer_activations(model)
    liveness = GraphLiveness(model, activations.by_graph, model.proto.graph)
    try:
        peak, moments = liveness.run()
    except UnknownSize as unknown:
        return Arena(None, (*activations.notes, f"peak activations are unknown: {unknown}"))
    live = [moment.live_bytes for moment in moments]
    timeline = Timeline(moments, live.index(max(live)) if live else 0, peak.alive)
    return Arena(peak, activations.notes, timeline)


class UnknownSize(Exception):
    """The size of a tensor cannot be told from the file."""


@dataclass(frozen=True, slots=True)
class Step:
    """What remains of one node or of several that run as one: the buffers it reads and writes, by name.

    `integer`: it runs on codes. `bodies`: the path of each body it holds.
    """

    node: NodeProto
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    integer: bool
    bodies: tuple[tuple[str, GraphProto], ...]


class GraphLiveness:
    """Liveness of one graph; of a body, `around` is the graph whose node holds it.

    Without `integers` nothing runs on codes: every DequantizeLinear makes a float tensor. With `rewrites_s8`, s8
    activations become u8 where there is one reader, and only ops whose activations then have one type (Conv, MatMul:
    u8) run on codes.
    """

    def __init__(
        self,
        model: ModelFile,
        sizes: dict[str, dict[str, Activation]],
        graph: GraphProto,
        path: str = "",
        *,
        around: GraphLiveness | None = None,
        integers: bool = True,
        rewrites_s8: bool = False,
    ) -> None:
        self.path = path
        self._model, self._all_sizes, self._graph = model, sizes, graph
        self._around, self._integers, self._rewrites_s8 = around, integers, rewrites_s8
        self._sizes = sizes.get(path, {})
        self._nodes = list(graph.node)  # held, so that id() of a node stays its identity
        self._producer = {name: node for node in self._nodes for name in node.output if name}
        # The named node that computes a tensor, seen through quantisation, which has no name in compact files.
        self._made_by: dict[str, str] = {}
        for node in self._nodes:
            named = node.name or (self._made_by.get(node.input[0], "") if node.input else "")
            self._made_by.update((name, named) for name in node.output if name)
        self._inputs = {value.name for value in graph.input}
        self._outputs = {value.name for value in graph.output}
        self._consumers: dict[str, list[NodeProto]] = defaultdict(list)
        self._reads_of: dict[int, list[str]] = {}
        for node in self._nodes:
            reads = list(dict.fromkeys(filter(None, (*node.input, *self._read_inside(node)))))
            self._reads_of[id(node)] = reads
            for name in reads:
                self._consumers[name].append(node)
        self._dequantisers: dict[str, NodeProto] = {}
        for name, node in self._producer.items():  # in the order of the file
            behind = node if node.op_type == "DequantizeLinear" else None
            if node.op_type in ALIASES and node.input:
                behind = self._dequantisers.get(node.input[0])
            if behind is not None:
                self._dequantisers[name] = behind
        # What is read here and comes from around: whether each is a constant.
        self._outer = {name: known for name in self._captured() if (known := self._known_around(name)) is not None}
        self._constant = self._constant_names()
        self._fused = {id(node) for node in self._nodes if integers and self._runs_on_codes(node)}
        self._buffer: dict[str, str] = {}  # alias → the name that owns the bytes

    def run(self) -> tuple[Peak, tuple[Moment, ...]]:
        """The peak, and the live bytes at every step.

        Raises:
            UnknownSize: of a tensor that is needed.
        """
        steps, always = self.steps(), self.always()
        last_use: dict[str, int] = {}
        for index, step in enumerate(steps):
            for name in (*step.reads, *step.writes):
                last_use[name] = index
        alive = set(always)
        held = sum(self.size(name).size_bytes for name in alive)
        moments: list[Moment] = []
        peak_index = -1
        for index, step in enumerate(steps):
            held += sum(self.size(name).size_bytes for name in set(step.writes) - alive)
            alive |= set(step.writes)
            inner = self._inner_peak(step)
            total = held + (inner.peak_bytes if inner else 0)
            dying = {name for name in (*step.reads, *step.writes) if last_use[name] == index} - always
            in_place = self._in_place_bytes(step, dying, always)
            moments.append(Moment(node_label(step.node), step.node.op_type, total, in_place))
            if peak_index < 0 or total > moments[peak_index].live_bytes:
                peak_index, inner_at_peak = index, inner
            held -= sum(self.size(name).size_bytes for name in dying & alive)
            alive -= dying
        if peak_index < 0:
            tensors = tuple(self._named(name) for name in always)
            return Peak(sum(tensor.size_bytes for tensor in tensors), "", "", tensors), ()
        made = {name: index for index, step in reversed([*enumerate(steps)]) for name in step.writes}
        names = {name for name, index in made.items() if index <= peak_index <= last_use[name]} | always
        tensors = (*(self._named(name) for name in names), *(inner_at_peak.alive if inner_at_peak else ()))
        ordered = tuple(sorted(tensors, key=lambda tensor: (-tensor.size_bytes, tensor.name)))
        top = moments[peak_index]
        return Peak(top.live_bytes, top.node, top.op_type, ordered), tuple(moments)

    def _in_place_bytes(self, step: Step, dying: set[str], always: set[str]) -> int:
        """What a pointwise op would save by writing over an input of its output's size that nothing reads after it."""
        if step.node.op_type not in POINTWISE or len(step.writes) != 1 or step.writes[0] in always:
            return 0
        size = self.size(step.writes[0]).size_bytes
        return size if any(self.size(name).size_bytes == size for name in dying.intersection(step.reads)) else 0

    def inputs(self) -> tuple[str, ...]:
        """Names of the graph's inputs that are no constants."""
        return tuple(value.name for value in self._graph.input if value.name not in self._constant)

    def declared_type(self, name: str) -> int:
        """Type (of TensorProto.DataType) that the graph declares for an input."""
        return next(int(value.type.tensor_type.elem_type) for value in self._graph.input if value.name == name)

    def outputs(self) -> set[str]:
        """Names of the buffers that the graph gives."""
        return {self._root(name) for name in self._outputs} - self._constant - self._outer.keys()

    def always(self) -> set[str]:
        """Buffers that live from the first to the last step."""
        return ({self._root(name) for name in self.inputs()} | self.outputs()) - self._constant - self._outer.keys()

    def body(self, path: str, graph: GraphProto) -> GraphLiveness:
        """Liveness of a body that a node of this graph holds."""
        return GraphLiveness(
            self._model,
            self._all_sizes,
            graph,
            path,
            around=self,
            integers=self._integers,
            rewrites_s8=self._rewrites_s8,
        )

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is known before the first inference."""
        return name in self._constant

    def constant_kernel(self, node: NodeProto) -> bool:
        """Whether a node's kernel (its second input) is known before the first inference."""
        return len(node.input) > 1 and self.is_constant(node.input[1])

    def owns_kernel(self, node: NodeProto) -> bool:
        """Whether a constant kernel belongs to this graph, and not to one around it."""
        return self.constant_kernel(node) and node.input[1] not in self._outer

    def constant_codes(self, name: str) -> bool:
        """Whether a tensor is known before the first inference, or dequantised from one that is."""
        return not name or self.is_constant(name) or self._is_dequantised_constant(name)

    def zero_point_of(self, name: str) -> str:
        """The zero point of the codes behind a dequantised tensor; "" where it has none."""
        node = self._dequantiser(name)
        return node.input[2] if node is not None and len(node.input) > 2 else ""

    def kernel_shape(self, node: NodeProto) -> tuple[int, ...] | None:
        """Shape of a convolution's kernel; None where the file does not say it."""
        position = 3 if node.op_type == "QLinearConv" else 1
        return self.shape_of(node.input[position]) if len(node.input) > position else None

    def shape_of(self, name: str) -> tuple[int, ...] | None:
        """Shape of a constant or an activation, also of the graphs around; None where the file does not say it."""
        graph: GraphLiveness | None = self
        while graph is not None:
            if name in self._model.constants[graph.path]:
                return self._model.constants[graph.path][name].shape
            if name in graph._sizes:
                return graph._sizes[name].shape
            graph = graph._around
        return None

    def steps(self) -> list[Step]:
        """Nodes in order, without those that merge into another or only rename a buffer."""
        merged: set[int] = set()
        steps = []
        for node in self._nodes:
            if id(node) in merged or all(name in self._constant for name in node.output if name):
                continue
            reads = [self._codes(name) if id(node) in self._fused else name for name in self._reads_of[id(node)]]
            writes = [name for name in node.output if name]
            if id(node) in self._fused:
                quantised = [self._quantiser(name) for name in writes]
                for clamps, quantiser in (found for found in quantised if found):
                    merged.update(map(id, (*clamps, quantiser)))
                ends = zip(writes, quantised, strict=True)
                writes = [found[1].output[0] if found else name for name, found in ends]
            elif node.op_type == "DequantizeLinear" and not self._needs_float(node.output[0]):
                continue
            if node.op_type in ALIASES and reads and reads[0] not in self._constant:
                self._buffer[writes[0]] = self._root(reads[0])
                continue
            roots = (self._root(name) for name in reads if name not in self._constant and name not in self._outer)
            bodies = tuple(subgraphs(node, self.path))
            steps.append(Step(node, tuple(dict.fromkeys(roots)), tuple(writes), id(node) in self._fused, bodies))
        return steps

    def _captured(self) -> set[str]:
        """Names that this graph or a body in it reads or gives, and does not make."""
        read = {name for reads in self._reads_of.values() for name in reads} | self._outputs
        return read - self._producer.keys() - self._inputs - self._model.constants[self.path].keys()

    def _known_around(self, name: str) -> bool | None:
        """Whether a name of the graphs around is a constant; None where they have none of that name."""
        around = self._around
        while around is not None:
            if name in around._constant:
                return True
            if name in around._producer or name in around._inputs:
                return False
            around = around._around
        return None

    def _constant_names(self) -> set[str]:
        """Constants, and what is computed from them alone; a dequantised constant is one only for integer ops."""
        names = set(self._model.constants[self.path])
        names |= {name for name, is_constant in self._outer.items() if is_constant}
        for node in self._nodes:
            reads = self._reads_of[id(node)]
            if node.op_type != "DequantizeLinear" and reads and all(name in names for name in reads):
                names.update(filter(None, node.output))
        return names

    def _runs_on_codes(self, node: NodeProto) -> bool:
        """Whether the runtime runs DequantizeLinear → node → QuantizeLinear as one integer op."""
        if node.op_type not in INTEGER_KERNELS:
            return False
        data = [name for name in node.input if name and name not in self._constant]
        if not data or any(self._dequantiser(name) is None for name in data):
            return False
        if all(self._is_dequantised_constant(name) for name in data):
            return False
        if node.op_type in TWO_OPERANDS and any(self._dequantiser(name) is None for name in node.input[:2]):
            return False
        quantised = all(self._quantiser(name) for name in node.output if name)
        if not quantised and node.op_type not in FLOAT_RESULT:
            return False
        return not self._rewrites_s8 or self._has_one_type(node, data)

    def _has_one_type(self, node: NodeProto, data: list[str]) -> bool:
        """Whether an op's activations have one type once s8 became u8 where it does; of Conv and MatMul, u8."""
        if node.op_type == "Gemm":
            return True
        if node.op_type in ("Conv", "MatMul"):
            data = data[:1]
        written = [found[1].output[0] for name in node.output if name and (found := self._quantiser(name))]
        kinds = {self._code_type(name) for name in (*map(self._codes, data), *written)}
        return len(kinds) == 1 and (node.op_type not in ("Conv", "MatMul") or "int8" not in kinds)

    def _code_type(self, name: str) -> str:
        """Type of quantised activations; those that several read stay s8, as does what no QuantizeLinear makes."""
        kind = self._sizes[name].dtype if name in self._sizes else ""
        maker, readers = self._producer.get(name), self._consumers[name]
        pair = maker is not None and maker.op_type == "QuantizeLinear" and name not in self._outputs
        if kind != "int8" or not pair or [node.op_type for node in readers] != ["DequantizeLinear"]:
            return kind
        dequantised = readers[0].output[0]
        return kind if len(self._consumers[dequantised]) > 1 else "uint8"

    def _dequantiser(self, name: str) -> NodeProto | None:
        """The DequantizeLinear that makes `name`, seen through ops that only rename the buffer."""
        return self._dequantisers.get(name)

    def _is_dequantised_constant(self, name: str) -> bool:
        node = self._dequantiser(name)
        return node is not None and node.input[0] in self._constant

    def _quantiser(self, name: str) -> tuple[list[NodeProto], NodeProto] | None:
        """The one QuantizeLinear that reads `name`, perhaps after clamps that only it reads."""
        clamps: list[NodeProto] = []
        while name not in self._outputs and len(self._consumers[name]) == 1:
            node = self._consumers[name][0]
            if node.op_type == "QuantizeLinear":
                return clamps, node
            if node.op_type not in CLAMPS:
                return None
            clamps.append(node)
            name = node.output[0]
        return None

    def _codes(self, name: str) -> str:
        """What an integer op reads in place of `name`: the quantised tensor behind its DequantizeLinear."""
        node = self._dequantiser(name) if name not in self._constant else None
        return node.input[0] if node is not None else name

    def _needs_float(self, name: str) -> bool:
        """Whether anything reads `name` as float: a float op, a graph output, or one of them through an alias."""
        names, seen = [name], {name}
        while names:
            name = names.pop()
            if name in self._outputs:
                return True
            for node in self._consumers[name]:
                if id(node) not in self._fused:
                    if node.op_type not in ALIASES:
                        return True
                    names += {node.output[0]} - seen
                    seen.add(node.output[0])
        return False

    def _read_inside(self, node: NodeProto) -> Iterator[str]:
        """Names that the bodies of `node` read from around them."""
        for _, body in subgraphs(node, self.path):
            made = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
            for inner in body.node:
                yield from (name for name in (*inner.input, *self._read_inside(inner)) if name not in made)
                made.update(inner.output)
            yield from (value.name for value in body.output if value.name not in made)

    def _inner_peak(self, step: Step) -> Peak | None:
        peaks = [self.body(path, graph).run()[0] for path, graph in step.bodies]
        return max(peaks, key=lambda peak: peak.peak_bytes, default=None)

    def _root(self, name: str) -> str:
        return self._buffer.get(name, name)

    def size(self, name: str) -> Activation:
        """Shape, type and bytes of an activation.

        Raises:
            UnknownSize: the file does not say it.
        """
        if name in self._sizes:
            return self._sizes[name]
        if self._around is not None and name in self._outer:
            return self._around.size(name)
        maker = self._producer.get(name)
        made_by = f"made by {maker.op_type} {node_label(maker)!r}" if maker is not None else "a graph input"
        raise UnknownSize(f"the file does not say the size of {name!r}, {made_by}")

    def _named(self, name: str) -> Activation:
        return replace(self.size(name), made_by=self._made_by.get(name, ""))
