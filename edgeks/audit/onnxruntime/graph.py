"""What ONNX Runtime makes of a graph before it runs: which nodes become one, and where tensors change their layout.

`lower` follows the optimisers that decide what RAM a network takes, at the level and without the optimisers that the
session names; everything else runs as the file has it. Checked against the graphs that ONNX Runtime 1.31 writes:

- BatchNormalization, Mul and Add by constants of a channel each, after a Conv whose kernel is constant and that nothing
  else reads, fold into the Conv (basic: ConvBNFusion, ConvMulFusion, ConvAddFusion). The node then has a kernel of its
  own, but for Add, which changes the bias only.
- Div, Erf, Add, Mul, Mul is one Gelu (extended); a Shape that the file tells is a constant (basic).
- Activations join the Conv or Gemm ahead of them (extended: ConvActivationFusion, GemmActivationFusion).
- x86-64, all: float convolutions run on blocked channels (NchwcTransformer), but in a body those whose kernel belongs
  to a graph around it and was not folded. What can compute in blocks follows them, a BatchNormalization as a
  convolution; anything else reads through a reordering node, which is one more activation.
- all: QLinearConv runs channels-last (NhwcTransformer), with transpositions where other ops than integer ones read.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from onnx import GraphProto, NodeProto, TensorProto

from edgeks.audit.alignment import rounded_up
from edgeks.audit.onnx.arena import GraphLiveness, Step
from edgeks.audit.onnx.shapes import NCHWC_DOMAIN
from edgeks.audit.ram import Machine
from edgeks.audit.timeline import Activation
from edgeks.model_files.onnx_file import node_label
from edgeks.target import Session

LEVELS = {"disabled": 0, "basic": 1, "extended": 2, "all": 3}
FOLDED_INTO_CONV = {"BatchNormalization": "ConvBNFusion", "Mul": "ConvMulFusion", "Add": "ConvAddFusion"}
ACTIVATIONS = frozenset({"Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid"})
IN_PLACE = frozenset(
    {"Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "Elu", "Selu", "Softplus", "Softsign"}
    | {"Add", "Sub", "Mul", "Div", "Neg", "Abs", "Exp", "Log", "Sqrt", "Reciprocal", "Floor", "Ceil", "Sum", "Softmax"}
)  # fmt: skip
# What computes in the channel blocks of the convolutions before it.
BLOCKED_UNARY = frozenset(
    {"Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "Elu", "Gelu", "BatchNormalization"}
    | {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize"}
)  # fmt: skip
POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})
BLOCKED_NARY = frozenset({"Add", "Sum", "Mul", "Concat"})
CHANNELS_LAST = frozenset(
    {"Add", "Mul", "MaxPool", "AveragePool", "GlobalAveragePool", "Relu", "Clip", "Sigmoid", "LeakyRelu", "Concat"}
    | {"QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearAveragePool", "QLinearConcat"}
    | {"QLinearGlobalAveragePool"}
)  # fmt: skip
BLOCK = 16  # channels in a block with AVX-512 (with AVX2 8): tensors in blocks hold whole ones, whatever their width
CHANNEL_ALIGNMENT = 4


@dataclass(frozen=True, slots=True)
class Buffer:
    """A tensor that a step writes. `kind`: equal for tensors of which one can take over the memory of the other."""

    name: str
    size_bytes: int
    kind: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class RuntimeStep:
    """One kernel as it runs. `in_place`: what it can write its output over. `op_type`: what the file calls the op.

    `form`: "float", "integer", or with blocks "blocked" (NCHWc) and "channels-last"; "placed" for what the file itself
    has in blocks. `folded`: constants were multiplied into its kernel, or added to its bias. `scratch`: bytes of
    buffers that live while it runs, in order.
    """

    node: NodeProto
    op_type: str
    form: str
    reads: tuple[str, ...]
    writes: tuple[Buffer, ...]
    in_place: tuple[str, ...] = ()
    folded: bool = False
    scratch: tuple[int, ...] = ()
    bodies: tuple[tuple[str, GraphProto], ...] = ()


@dataclass
class Lowering:
    """How a session lowers graphs on a machine."""

    session: Session
    machine: Machine
    level: int = field(init=False)

    def __post_init__(self) -> None:
        self.level = LEVELS.get(self.session.graph_optimization, 3)

    @property
    def integers(self) -> bool:
        """Whether DequantizeLinear → op → QuantizeLinear become one integer op."""
        return self.runs("QDQSelectorActionTransformer", 2)

    def runs(self, optimizer: str, level: int) -> bool:
        """Whether an optimiser of that level works."""
        return self.level >= level and optimizer not in self.session.disabled_optimizers

    def lower(self, liveness: GraphLiveness) -> list[RuntimeStep]:
        """The steps of a graph as they run, with the layout changes between them.

        Raises:
            UnknownSize: of a tensor that is needed.
        """
        steps = liveness.steps()
        outputs = liveness.outputs()
        runtime = [*self._widened_inputs(liveness), *(_as_runtime(step, liveness) for step in steps)]
        if self.runs("ConstantFolding", 1):
            runtime = [step for step in runtime if step.op_type != "Shape"]
        if self.runs("GeluFusion", 2):
            runtime = _with_gelus(runtime)
        plain = list(self._fused(runtime, outputs, liveness))
        return _in_order(_Layouts(self, liveness, plain, outputs).steps(), [step.node for step in steps])

    def widened(self, by_graph: dict[str, dict[str, Activation]]) -> dict[str, dict[str, Activation]]:
        """Activations as kernels compute them: on x86-64 float16 is float32 from the first Cast to the last."""
        if self.machine != "x86-64":
            return by_graph
        return {path: {name: _widened(found) for name, found in graph.items()} for path, graph in by_graph.items()}

    def _widened_inputs(self, liveness: GraphLiveness) -> Iterator[RuntimeStep]:
        for name in liveness.inputs() if self.machine == "x86-64" else ():
            if liveness.declared_type(name) == TensorProto.FLOAT16:
                node = NodeProto(op_type="Cast", name=f"widen {name}")
                yield RuntimeStep(node, "Cast", "float", (), (_buffer(liveness.size(name)),))

    def _fused(self, steps: list[RuntimeStep], outputs: set[str], liveness: GraphLiveness) -> Iterator[RuntimeStep]:
        """Fold and merge what follows a convolution or a Gemm and is its only reader."""
        uses = Counter(name for step in steps for name in step.reads)
        reader = {name: index for index, step in enumerate(steps) for name in step.reads}
        gone: set[int] = set()
        for index, step in enumerate(steps):
            if index in gone:
                continue
            while len(step.writes) == 1 and step.form == "float" and step.op_type in ("Conv", "Gemm"):
                if step.node.op_type == "FusedConv":
                    break
                written = step.writes[0].name
                if written in outputs or uses[written] != 1:
                    break
                after = steps[reader[written]]
                if len(after.reads) != 1 or len(after.writes) != 1:
                    break
                if _folds(step, after, liveness) and self.runs(FOLDED_INTO_CONV[after.op_type], 1):
                    step = replace(step, writes=after.writes, folded=step.folded or after.op_type != "Add")
                elif after.op_type in ACTIVATIONS and self.runs(f"{step.op_type}ActivationFusion", 2):
                    gone.add(reader[written])
                    step = replace(step, writes=after.writes)
                    break
                else:
                    break
                gone.add(reader[written])
            yield step


def _folds(step: RuntimeStep, after: RuntimeStep, liveness: GraphLiveness) -> bool:
    """Whether what follows a convolution becomes part of its kernel or bias: one number per channel, or for Mul one."""
    kernel = liveness.shape_of(step.node.input[1]) if step.op_type == "Conv" and len(step.node.input) > 1 else None
    if after.op_type not in FOLDED_INTO_CONV or kernel is None or not liveness.constant_kernel(step.node):
        return False
    if after.op_type == "BatchNormalization":
        return True
    shape = next((liveness.shape_of(name) for name in after.node.input if liveness.is_constant(name)), None)
    if shape is None or not shape:
        return shape is not None and after.op_type == "Mul"
    channels_axis = len(shape) - len(kernel) + 1
    return channels_axis in (0, 1) and shape[channels_axis] == kernel[0] == math.prod(shape)


def _in_order(steps: list[RuntimeStep], nodes: list[NodeProto]) -> list[RuntimeStep]:
    """The order in which they run: depth first from the last results, of several inputs the youngest node first.

    Nodes that an optimiser made are younger than those of the file (GraphViewer and ReverseDFSFrom in graph.cc).
    """
    place = {id(node): index for index, node in enumerate(nodes)}

    def age(index: int) -> tuple[int, int]:
        step = steps[index]
        made = 2 if step.form == "reorder" else 1 if step.form != "float" or step.folded else 0
        return made, place.get(id(step.node), index)

    maker = {buffer.name: index for index, step in enumerate(steps) for buffer in step.writes}
    inputs = [sorted({maker[name] for name in step.reads if name in maker}, key=age) for step in steps]
    read = {index for before in inputs for index in before}
    stack = [(index, False) for index in sorted(set(range(len(steps))) - read, key=age)]
    seen: set[int] = set()
    ordered = []
    while stack:
        index, done = stack.pop()
        if done:
            ordered.append(steps[index])
        elif index not in seen:
            seen.add(index)
            stack.append((index, True))
            stack.extend((before, False) for before in inputs[index] if before not in seen)
    return ordered


def _as_runtime(step: Step, liveness: GraphLiveness) -> RuntimeStep:
    op_type = "Conv" if step.node.op_type == "FusedConv" else step.node.op_type
    integer = step.integer or op_type.startswith(("QLinear", "QGemm"))
    writes = []
    for name in step.writes:
        writes.append(_buffer(liveness.size(name)))
    in_place = step.reads if op_type in IN_PLACE and not integer else ()
    form = "integer" if integer else "placed" if step.node.domain == NCHWC_DOMAIN else "float"
    if any(attribute.name == "channels_last" and attribute.i for attribute in step.node.attribute):
        form = "channels-last"  # as ONNX Runtime saves what it has optimised
    return RuntimeStep(step.node, op_type, form, step.reads, tuple(writes), in_place, bodies=step.bodies)


def _buffer(tensor: Activation) -> Buffer:
    return Buffer(tensor.name, tensor.size_bytes, ("", tensor.shape, tensor.size_bytes))


def _widened(tensor: Activation) -> Activation:
    halved = tensor.dtype == "float16"
    return replace(tensor, dtype="float32", size_bytes=2 * tensor.size_bytes) if halved else tensor


def _with_gelus(steps: list[RuntimeStep]) -> list[RuntimeStep]:
    """x → Div → Erf → Add → Mul by x → Mul becomes one step, where nothing else reads what lies between."""
    readers: dict[str, list[int]] = defaultdict(list)
    for index, step in enumerate(steps):
        for name in step.reads:
            readers[name].append(index)
    gelus: dict[int, RuntimeStep] = {}
    gone: set[int] = set()
    for first, step in enumerate(steps):
        if step.op_type not in ("Div", "Mul") or len(step.reads) != 1:
            continue
        chain, at = [first], first
        for op_types in (("Erf",), ("Add",), ("Mul",), ("Mul",)):
            following = readers[steps[at].writes[0].name]
            if len(following) != 1 or steps[following[0]].op_type not in op_types:
                break
            at = following[0]
            chain.append(at)
        if len(chain) == 5 and step.reads[0] in steps[chain[3]].reads:
            node = NodeProto(op_type="Gelu", name=node_label(steps[at].node))
            gelus[at] = RuntimeStep(node, "Gelu", "float", step.reads, steps[at].writes)
            gone.update(chain)
    return [gelus.get(index, step) for index, step in enumerate(steps) if index in gelus or index not in gone]


class _Layouts:
    """One pass that keeps, per tensor, the layout in which it was written, and adds a step where another is read."""

    def __init__(
        self, lowering: Lowering, liveness: GraphLiveness, steps: list[RuntimeStep], outputs: set[str]
    ) -> None:
        self._liveness, self._outputs = liveness, outputs
        self._nchwc = lowering.machine == "x86-64" and lowering.runs("NchwcTransformer", 3)
        self._nhwc = lowering.runs("NhwcTransformer", 3)
        self._uses = Counter(name for step in steps for name in step.reads)
        self._blocked: dict[str, str] = {}  # name → form of the step that wrote it in blocks
        self._copies: set[str] = set()  # of tensors that exist in the other layout as well
        self._maker: dict[str, int] = {}
        self._steps: list[RuntimeStep] = []
        self._gone: set[int] = set()  # of them, those that merged into a later one
        for step in steps:
            self._add(step)

    def steps(self) -> list[RuntimeStep]:
        """All steps, those that change a layout among them."""
        return [step for index, step in enumerate(self._steps) if index not in self._gone]

    def _add(self, step: RuntimeStep) -> None:
        form = self._form(step)
        if form is None:
            reads = tuple(self._plain(name) for name in step.reads)
            self._append(replace(step, reads=reads, in_place=tuple(n for n in reads if n in step.in_place)))
            return
        large = max((self._size(name) for name in step.reads), default=0)
        first_reads_plain = step.op_type == "Conv" and form == "blocked" and _few_channels(step, self._liveness)
        if first_reads_plain:
            reads = tuple(self._plain(name) for name in step.reads)
        else:
            reads = tuple(self._in_blocks(name, form, large) for name in step.reads)
        writes = tuple(self._laid_out(buffer.name, buffer.name, form) for buffer in step.writes)
        in_place = tuple(name for name in reads if name in step.in_place)
        step = replace(step, form=form, reads=reads, writes=writes, in_place=in_place)
        if form == "blocked" and self._joins(step):
            return
        self._append(step)
        for buffer in step.writes:
            self._blocked[buffer.name] = form
            if buffer.name in self._outputs:
                self._plain(buffer.name)

    def _form(self, step: RuntimeStep) -> str | None:
        """In which blocks a step computes; None for plain tensors."""
        from_blocks = [self._blocked.get(name) for name in step.reads]
        if step.form == "integer":
            if not self._nhwc or not step.reads:
                return None
            if step.op_type in ("Conv", "QLinearConv"):
                return "channels-last"
            largest = max(range(len(step.reads)), key=lambda index: self._size(step.reads[index]))
            follows = step.op_type in CHANNELS_LAST and from_blocks[largest] == "channels-last"
            return "channels-last" if follows else None
        if not self._nchwc or step.form != "float":
            return None
        if step.op_type == "Conv":
            own = step.folded or self._liveness.owns_kernel(step.node)
            return "blocked" if own and _fits_blocks(step, self._liveness) else None
        blocked = bool(from_blocks) and all(form == "blocked" for form in from_blocks)
        whole = blocked and not any(self._liveness.size(name).shape[1] % BLOCK for name in step.reads)
        if step.op_type in BLOCKED_UNARY and blocked and len(from_blocks) == 1:
            fits = whole if step.op_type in POOLS else step.op_type != "Resize" or _resizes_blocks(step.node)
            return "blocked" if fits else None
        alike = whole if step.op_type == "Concat" else len({self._size(name) for name in step.reads}) == 1
        return "blocked" if step.op_type in BLOCKED_NARY and blocked and len(from_blocks) > 1 and alike else None

    def _joins(self, step: RuntimeStep) -> bool:
        """Add and activations merge into the convolution (or BatchNormalization) in blocks that only they read."""
        kinds = ("Conv", "BatchNormalization")
        for name in step.reads:
            index = self._maker.get(name)
            if index is None or self._uses[name] != 1 or name in self._outputs or len(step.writes) != 1:
                continue
            maker = self._steps[index]
            if maker.op_type not in kinds or maker.form != "blocked" or maker.bodies:
                continue
            if step.op_type in ACTIVATIONS:
                merged = replace(maker, writes=step.writes)
            elif step.op_type == "Add" and not maker.in_place and len(step.reads) == 2:
                other = next(read for read in step.reads if read != name)
                merged = replace(maker, reads=(*maker.reads, other), writes=step.writes, in_place=(other,))
            else:
                continue
            self._gone.add(index)
            self._append(merged)
            written = step.writes[0].name
            self._blocked[written] = "blocked"
            if written in self._outputs:
                self._plain(written)
            return True
        return False

    def _append(self, step: RuntimeStep) -> None:
        for buffer in step.writes:
            self._maker[buffer.name] = len(self._steps)
        self._steps.append(step)

    def _plain(self, name: str) -> str:
        """The name under which a tensor exists without blocks, made where it does not yet."""
        if name not in self._blocked:
            return name
        return self._copy(name, f"{name} plain")

    def _in_blocks(self, name: str, form: str, large: int) -> str:
        if self._blocked.get(name) == form or (form == "channels-last" and self._size(name) < large):
            return name
        return self._copy(self._plain(name), f"{name} {form}", form)

    def _copy(self, name: str, copy: str, form: str = "") -> str:
        if copy not in self._copies:
            self._copies.add(copy)
            buffer = self._laid_out(copy, name.removesuffix(" plain"), form)
            node = NodeProto(op_type="Reorder", name=f"reorder {name}")
            self._append(RuntimeStep(node, "Reorder", "reorder", (name,), (buffer,)))
        return copy

    def _laid_out(self, name: str, tensor: str, form: str) -> Buffer:
        """What a tensor takes in a layout, under a name; to the planner, channels-last is another shape."""
        found = self._liveness.size(tensor)
        if form != "blocked" or len(found.shape) < 2 or not found.shape[1]:
            return Buffer(name, found.size_bytes, (form, found.shape, found.size_bytes))
        channels = rounded_up(found.shape[1], BLOCK)
        size = found.size_bytes // found.shape[1] * channels
        return Buffer(name, size, ("", (found.shape[0], channels, *found.shape[2:]), size))

    def _size(self, name: str) -> int:
        return self._liveness.size(name).size_bytes


def convolution(node: NodeProto, kernel: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Groups, input channels of a group, output channels of a group, and taps of a Conv with that kernel (OIHW)."""
    groups = max(1, next((a.i for a in node.attribute if a.name == "group"), 1))
    return groups, kernel[1], kernel[0] // groups, math.prod(kernel[2:])


def _fits_blocks(step: RuntimeStep, liveness: GraphLiveness) -> bool:
    kernel = liveness.kernel_shape(step.node)
    if kernel is None or len(kernel) != 4:
        return False
    groups, inputs, outputs, _ = convolution(step.node, kernel)
    if groups == 1:
        return inputs < BLOCK or inputs % CHANNEL_ALIGNMENT == 0
    if groups * outputs % CHANNEL_ALIGNMENT:
        return False
    return (inputs == 1 and outputs == 1) or (inputs % BLOCK == 0 and outputs % BLOCK == 0)


def _resizes_blocks(node: NodeProto) -> bool:
    """The two kinds of resizing that there are for blocks (TransformResize in nchwc_transformer.cc)."""
    texts: dict[str, str] = {
        attribute.name: attribute.s.decode(errors="replace") for attribute in node.attribute if attribute.s
    }
    coordinates = texts.get("coordinate_transformation_mode", "half_pixel")
    if texts.get("mode", "nearest") == "nearest":
        return coordinates == "asymmetric" and texts.get("nearest_mode", "round_prefer_floor") == "floor"
    return texts["mode"] == "linear" and coordinates in ("asymmetric", "align_corners", "half_pixel")


def _few_channels(step: RuntimeStep, liveness: GraphLiveness) -> bool:
    kernel = liveness.kernel_shape(step.node)
    return kernel is not None and kernel[1] < BLOCK and convolution(step.node, kernel)[0] == 1
