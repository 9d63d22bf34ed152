"""RAM of an ONNX file in ONNX Runtime's CPU provider, predicted from the file and the session's options.

Held weights are counted kernel by kernel (`weights_held`), activations by a simulation of the arena over the first two
inferences. What ONNX Runtime itself takes was measured with 1.31.1, one thread, on x86-64 and on arm64 (an emulated
Cortex-A72 with Debian 12: emulation changes times, not what is resident); see `runtime_models.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from onnx import GraphProto, NodeProto

from edgeks.audit.alignment import PAGE, rounded_up
from edgeks.audit.onnx.arena import GraphLiveness, UnknownSize
from edgeks.audit.onnx.kernels import Reader, kernels_in, readers_of, runs_of
from edgeks.audit.onnx.shapes import Activations, infer_activations
from edgeks.audit.onnxruntime.arena import Arena
from edgeks.audit.onnxruntime.frame import Frame, HeapOfActivations
from edgeks.audit.onnxruntime.graph import BLOCK, Lowering, RuntimeStep
from edgeks.audit.onnxruntime.kernels import Packing, Weight, pack, scratch
from edgeks.audit.onnxruntime.loading import Loading, Pack
from edgeks.audit.ram import HeldKernel, Machine, RamParts, RamPrediction
from edgeks.model_files.onnx_file import BITS, KINDS, Constant, ModelFile, SparseConstant, all_graphs, first_output
from edgeks.model_files.onnx_sparse import FOLDED_COPIES, FOLDING_BYTES
from edgeks.target import Session

# Measured with ONNX Runtime 1.31.1, Python 3.11, numpy 2: bytes. Anonymous memory of a session, and of each
# node of the file (also of one that is fused away); code of the runtime that is read from its file, and that of a type
# of op; and what the first inference adds to either.
BASELINE: dict[Machine, int] = {"x86-64": 52_500_000, "arm64": 51_500_000}
SESSION: dict[Machine, int] = {"x86-64": 1_900_000, "arm64": 1_750_000}
NODE = 5_300
CODE: dict[Machine, int] = {"x86-64": 7_550_000, "arm64": 7_150_000}
CODE_OF_OP_TYPE = 55_000
FIRST_RUN, RUN_CODE, RUN_CODE_OF_OP_TYPE = 570_000, 550_000, 20_000
FOLDING_CODE = 750_000  # of what makes sparse kernels dense
LOAD_PEAK_NOTE = "the peak while loading is that with the memory allocator of glibc (± 20 %)"
LATER_RUNS = 2  # after the first, which plans
MMAP_THRESHOLD_MAX = 32 << 20


def predict_onnxruntime(
    model: ModelFile,
    session: Session,
    profile_name: str,
    machine: Machine,
    activations: Activations | None = None,
    readers: dict[Constant, tuple[Reader, ...]] | None = None,
) -> RamPrediction | None:
    """ModelFile → RamPrediction; None where the file does not say the size of an activation (`Arena.notes` tells).

    `activations` and `readers`: the model's, and those of its constants, where they are known already.
    """
    activations = activations or infer_activations(model)
    if model.path.suffix == ".ort":  # it was optimised when it was saved; what it holds runs as it is
        session = replace(session, graph_optimization="disabled")
    lowering = Lowering(session, machine)
    prepacks = dict(session.config).get("session.disable_prepacking", "0") != "1"
    weights = _Weights(model, readers_of(model) if readers is None else readers, prepacks, machine)
    try:
        sizes = lowering.widened(activations.by_graph)
        graph, rewrites_s8 = model.proto.graph, machine == "x86-64"
        top = GraphLiveness(model, sizes, graph, integers=lowering.integers, rewrites_s8=rewrites_s8)
        frame = _frame(top, lowering, weights, session.threads)
    except UnknownSize:
        return None
    arena = Arena() if session.arena else HeapOfActivations()
    for size in weights.private_bytes:
        arena.allocate(size)
    private = sum(weights.private_bytes)
    mapped, heap, packed = weights.totals()
    if not prepacks:
        heap += weights.unused_block()
    nodes = list(_nodes(model.proto.graph))
    op_types = {node.op_type for node in nodes}
    library = SESSION[machine] + NODE * len(nodes) + CODE[machine] + CODE_OF_OP_TYPE * len(op_types)
    library += FOLDING_CODE * any(isinstance(constant, SparseConstant) for constant in model.all_constants())
    at_run = library + FIRST_RUN + RUN_CODE + RUN_CODE_OF_OP_TYPE * len(op_types)
    loaded = RamParts(0, heap, packed, max(0, arena.touched_bytes() - private), library)
    plan = frame.run(arena)
    for _ in range(LATER_RUNS):
        frame.run(arena, plan if session.memory_pattern else None)
    at_peak = max(0, arena.touched_bytes() - private)
    run = replace(loaded, mapped_bytes=mapped, arena_bytes=at_peak, library_bytes=at_run)  # an inference reads them
    return RamPrediction(
        profile=profile_name,
        baseline_bytes=BASELINE[machine],
        load_peak_bytes=max(loaded.total_bytes, weights.load_peak_bytes() + library),
        loaded=loaded,
        run_peak=run,
        kernels=weights.kernels(),
        notes=(*activations.notes, LOAD_PEAK_NOTE, *_notes(model, lowering)),
    )


def _notes(model: ModelFile, lowering: Lowering) -> Iterator[str]:
    """What the rules do not cover of a file and a session."""
    if not lowering.integers and any(node.op_type == "DequantizeLinear" for node in _nodes(model.proto.graph)):
        yield "below the level extended every kernel is dequantised at each inference: the arena is an upper bound"
    if not lowering.session.arena:
        yield "activations come from the C library's heap, whose holes differ by process: the peak is a lower bound"
    if lowering.session.threads > 1:
        yield "measured with one thread: each further one adds its stack and, in float convolutions, a buffer of 64 kB"


def _frame(liveness: GraphLiveness, lowering: Lowering, weights: _Weights, threads: int) -> Frame:
    steps, bodies = [], {}
    for step in lowering.lower(liveness):
        packing = weights.hold(step, liveness)
        steps.append(replace(step, scratch=scratch(step, liveness, packing, threads)))
        for path, graph in step.bodies:
            bodies[path] = _frame(liveness.body(path, graph), lowering, weights, threads)
    return Frame(steps, frozenset(liveness.inputs()), frozenset(liveness.outputs()), bodies)


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for _, inside in all_graphs(graph):
        yield from inside.node


class _Weights:
    """What is held of every constant: `hold` is told each step as it runs, and the totals are there at the end."""

    def __init__(
        self, model: ModelFile, readers: dict[Constant, tuple[Reader, ...]], prepacks: bool, machine: Machine
    ) -> None:
        self._prepacks, self._machine = prepacks, machine
        self._constants = model.all_constants()
        self._path, self._file_bytes = model.path, model.file_bytes
        self._readers = readers
        # A node is known by its graph and what it makes: several may have one name, or none.
        self._weight_of: dict[tuple[str, str], tuple[Constant, Reader]] = {}
        for constant, found in readers.items():
            for reader in found:
                if reader.weight is not None:
                    self._weight_of[reader.graph_path, reader.output] = constant, reader
        self._held: dict[Constant, dict[tuple[str, ...], int]] = {}
        self._packed: set[tuple[str, ...]] = set()
        self.private_bytes: list[int] = []
        self.loading = Loading()
        self._packs: list[tuple[str, Packing, bool]] = []  # and whether another node has packed the same
        self._largest_rewritten = 0

    def hold(self, step: RuntimeStep, liveness: GraphLiveness) -> Packing | None:
        """Note what a step needs of its kernel; how it packs it, or None."""
        place = liveness.path, first_output(step.node)
        if place not in self._weight_of:
            return None
        constant, reader = self._weight_of[place]
        held = self._held.setdefault(constant, {})
        via = [node for node in reader.via if node.op_type != "Identity"]
        # Two chains of the same ops with the same other inputs are one chain to ONNX Runtime.
        name = "".join(f"{node.op_type}({','.join(node.input[1:])})" for node in via)
        codes = step.form in ("integer", "channels-last") or (reader.zero_point is not None and not via)
        computed = not codes and any(node.op_type != "DequantizeLinear" for node in via)
        at_run_time = not codes and not computed and bool(via)
        elements = math.prod(constant.shape)
        key: tuple[str, ...] = ("original",)
        size = _bytes(constant)
        if constant.dtype == "float16" and self._machine == "x86-64":
            key, size = ("widened",), 4 * elements
        if computed and liveness.constant_kernel(step.node):
            key, size = ("computed", name), 4 * elements
        if key != ("original",) and key not in held:
            self.loading.folds.append((_named(constant, ("original",)), _named(constant, key), _bytes(constant), size))
        if step.folded:
            source, key = key, ("folded", *place)
            self.loading.folds.append((_named(constant, source), _named(constant, key), size, size))
        if step.form == "blocked":
            source, read = key, size
            key, size = ("blocked", *(key if step.folded else (name,))), _blocked_bytes(constant.shape)
            if key not in held:
                self.loading.blocks.append((_named(constant, source), _named(constant, key), read, size))
        if key != ("original",):
            if key not in held and not self._is_external(constant):
                self._largest_rewritten = max(self._largest_rewritten, size)
            held[key] = size
            if step.op_type == "Conv":
                return None
        if self._prepacks and not at_run_time:
            zero = reader.zero_point is None or not reader.zero_point.array().any()
            dtype = "float32" if computed else constant.dtype
            signed = self._signed_input(step, liveness)
            weight = Weight(constant.shape, dtype, zero and _rest_is_constant(step, liveness))
            packing = pack(step, weight, signed, self._machine)
            if packing.packed:
                held.pop(key, None)
                own = ("packed", *place) if packing.private else ("packed", step.op_type, name if computed else "")
                self._packs.append((_named(constant, key), packing, own in held))
                held[own] = packing.size_bytes
                if packing.private:
                    self.private_bytes.append(packing.size_bytes)
                return packing
        held[key] = size
        return None

    def load_peak_bytes(self) -> int:
        """The most bytes resident of weights while the file is opened."""
        loading = self.loading
        loading.stored = {
            _named(constant, ("original",)): _bytes(constant)
            for constant in self._constants
            if not self._is_external(constant)
        }
        last = {name: index for index, (name, *_) in enumerate(self._packs)}
        loading.packs = [
            Pack(name, packing.size_bytes, packing.scratch_bytes, is_copy, last[name] == index)
            for index, (name, packing, is_copy) in enumerate(self._packs)
        ]
        loading.whole_file_bytes = self._file_bytes if self._path.suffix == ".ort" else 0
        made_dense = sum(_made_dense(constant) for constant in self._constants if isinstance(constant, SparseConstant))
        kept = {_named(constant, key) for constant in self._constants for key in self._held_of(constant)}
        return loading.peak_bytes(kept) + made_dense

    def _held_of(self, constant: Constant) -> dict[tuple[str, ...], int]:
        return self._held.get(constant, {("original",): _bytes(constant)})

    def _signed_input(self, step: RuntimeStep, liveness: GraphLiveness) -> bool:
        """Whether activations are s8; ONNX Runtime rewrites those of QDQ files to u8 on x86-64."""
        written_by_file = step.op_type == "QLinearConv"
        if not written_by_file and self._machine == "x86-64":
            return False
        reads = [step.node.input[0]] if written_by_file else [name.split(" ")[0] for name in step.reads[:1]]
        return any(liveness.size(name).dtype == "int8" for name in reads)

    def _is_external(self, constant: Constant) -> bool:
        """Whether the content lies in a data file beside the model, which ONNX Runtime maps."""
        return constant.data_file not in (None, self._path)

    def totals(self) -> tuple[int, int, int]:
        """Bytes mapped, on the heap, and packed."""
        mapped = heap = packed = 0
        for constant in self._constants:
            held = self._held_of(constant)
            for key, size in held.items():
                if key[0] == "packed":
                    packed += size
                elif key == ("original",) and self._is_external(constant):
                    mapped += rounded_up(size, PAGE)
                else:
                    heap += size
        return mapped, heap, packed

    def unused_block(self) -> int:
        """Bytes of the one block that ONNX Runtime reserves for all constants where it does not prepack.

        It never writes the block, so that it takes nothing, unless the C library hands out memory that was in use
        before: the freed originals of rewritten kernels that the file itself held, where they are as large. From
        32 MiB on it never does.
        """
        _, heap, packed = self.totals()
        recycled = self._largest_rewritten >= 0.9 * (heap + packed) and heap + packed < MMAP_THRESHOLD_MAX
        return heap + packed if recycled else 0

    def kernels(self) -> tuple[HeldKernel, ...]:
        """What is held of every kernel, the most bytes first."""
        rows = []
        for constant, held in self._held.items():
            readers = [reader for reader in self._readers[constant] if reader.weight is not None]
            layers = sum(runs_of(readers)) // kernels_in(constant, readers)
            rows.append(HeldKernel(constant.name, layers, len(held), sum(held.values()) // max(1, len(held))))
        return tuple(sorted(rows, key=lambda row: -row.copies * row.copy_bytes))


def _rest_is_constant(step: RuntimeStep, liveness: GraphLiveness) -> bool:
    """Whether a convolution's bias and its zero points are known before the first inference (a body gathers them)."""
    inputs = step.node.input
    if step.op_type == "QLinearConv":
        return all(liveness.is_constant(name) for name in (inputs[2], inputs[5], *inputs[8:9]) if name)
    zero_points = [liveness.zero_point_of(name) for name in inputs[:2]]
    return all(liveness.is_constant(name) for name in zero_points if name) and all(
        map(liveness.constant_codes, inputs[2:3])
    )


def _named(constant: Constant, key: tuple[str, ...]) -> str:
    return f"{id(constant)} {key}"


def _bytes(constant: Constant) -> int:
    """Bytes of a constant in memory."""
    return -(-math.prod(constant.shape) * BITS.get(KINDS[constant.tensor.data_type], 64) // 8)


def _made_dense(constant: Constant) -> int:
    """Bytes of what a sparse kernel goes through until it is dense: they stay until all kernels are."""
    return math.prod(constant.shape) * FOLDING_BYTES + FOLDED_COPIES * _bytes(constant)


def _blocked_bytes(shape: tuple[int, ...]) -> int:
    outputs, inputs = shape[:2]
    depth = inputs if inputs < BLOCK else rounded_up(inputs, BLOCK)
    return 4 * rounded_up(outputs, BLOCK) * depth * math.prod(shape[2:])
