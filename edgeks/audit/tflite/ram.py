"""RAM of a .tflite file under LiteRT and tflite-runtime, predicted from the file alone.

The file is mapped, and every page of it that holds something an operator reads is resident after the first inference.
Built-in and reference kernels read the kernels in place; XNNPACK holds a packed copy per operator
(`edgeks.audit.xnnpack.plan`). Activations lie in the arenas (`edgeks.audit.tflite.arena`) and in XNNPACK's workspace;
products of built-in kernels pack both operands in a block of their own (`edgeks.audit.tflite.gemm`).

What a runtime takes for itself (`Cost`) was measured per machine, on networks of 4 to 136 operators: x86-64, and arm64
as an emulated Cortex-A72 with Debian 12 and its kernel 6.1 (emulation changes times, not what is resident).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeks.audit.alignment import PAGE, rounded_up
from edgeks.audit.ram import HeldKernel, Machine, RamParts, RamPrediction
from edgeks.audit.tflite.arena import TfliteArena, plan_arena
from edgeks.audit.tflite.gemm import RuyBlock, eigen_bytes, gemmlowp_bytes, products, ruy_block
from edgeks.audit.tflite.prepare import KEPT
from edgeks.audit.tflite.scratch import Kernels
from edgeks.audit.tflite.tensors import Graph, read_graphs
from edgeks.audit.tflite.weight_cache import cache_notes, with_weight_cache
from edgeks.audit.xnnpack.graph import DelegateVersion
from edgeks.audit.xnnpack.plan import XnnpackPlan, plan_xnnpack
from edgeks.model_files.tflite_file import tensor_name, whole_numbers
from edgeks.model_files.tflite_kernels import kernel_operators
from edgeks.model_files.tflite_sparse import CSR
from edgeks.runtime_profile import COMPILED, Profile
from edgeks.target import LiteRtSession

READ_AHEAD = 65536  # pages of a mapped file that the system maps with the one that is touched
NODE_BYTES = 1000  # an operator and its tensors
# LiteRT frees the arenas of a WHILE's graphs after every inference; the next cannot use an aligned block of the same
# size again: old ones stay until the heap is trimmed. Several loops take what others left, but in CompiledModel.
# As measured (docs/results/ram.md): 2.2 to 2.9 times the arenas of one loop stay, 0.5 to 2 times those of several.
ONE_LOOP_KEEPS, SEVERAL_LOOPS_KEEP = 2.4, 0.75
ROUGH_LOOPS = "RAM is rough (± 30 %) where a file has several loops: the heap keeps more or less of their arenas"
SCALE_BYTES = 12  # a scale, its zero point and, of a kernel, its integer multiplier


@dataclass(frozen=True, slots=True)
class Cost:
    """What a runtime takes, whatever the model. `heap`: anonymous. `code`: pages of its libraries.

    `load_peak`: freed once the file is open. `run_peak`: freed after an inference; more where floats go in or out.
    """

    heap_loaded: int
    heap_run: int
    code_loaded: int
    code_run: int
    load_peak: int
    run_peak: int
    run_peak_float: int


BASELINES: dict[Machine, dict[str, int]] = {
    "x86-64": {"litert": 42_000_000, "litert-compiled": 45_000_000, "tflite-runtime": 40_000_000},
    "arm64": {"litert": 40_400_000, "litert-compiled": 43_000_000, "tflite-runtime": 37_500_000},
}
# Machine, runtime, and what runs the operators: reference kernels, built-in ones, or XNNPACK some of them.
COSTS: dict[tuple[Machine, str, str], Cost] = {
    ("x86-64", "litert", "reference"): Cost(510_000, 1_050_000, 2_680_000, 2_880_000, 170_000, 120_000, 460_000),
    ("x86-64", "litert", "builtin"): Cost(510_000, 1_090_000, 2_680_000, 2_970_000, 170_000, 150_000, 460_000),
    ("x86-64", "litert", "xnnpack"): Cost(560_000, 1_100_000, 3_500_000, 3_700_000, 0, 120_000, 460_000),
    ("x86-64", "litert-compiled", "builtin"): Cost(
        1_040_000, 1_600_000, 6_200_000, 6_400_000, 20_000, 500_000, 500_000
    ),
    ("x86-64", "litert-compiled", "xnnpack"): Cost(
        1_040_000, 1_600_000, 6_900_000, 7_100_000, 20_000, 500_000, 500_000
    ),
    ("x86-64", "tflite-runtime", "reference"): Cost(600_000, 620_000, 2_450_000, 2_870_000, 200_000, 300_000, 300_000),
    ("x86-64", "tflite-runtime", "builtin"): Cost(600_000, 620_000, 2_450_000, 2_870_000, 200_000, 300_000, 300_000),
    ("x86-64", "tflite-runtime", "xnnpack"): Cost(600_000, 590_000, 3_050_000, 3_270_000, 170_000, 200_000, 200_000),
    ("arm64", "litert", "reference"): Cost(440_000, 860_000, 2_100_000, 2_230_000, 100_000, 350_000, 460_000),
    ("arm64", "litert", "builtin"): Cost(440_000, 870_000, 2_170_000, 2_360_000, 100_000, 350_000, 460_000),
    ("arm64", "litert", "xnnpack"): Cost(500_000, 950_000, 2_870_000, 3_000_000, 0, 350_000, 460_000),
    # An estimate: no ARMv8.1 processor was at hand, and CompiledModel runs on no older one.
    ("arm64", "litert-compiled", "builtin"): Cost(940_000, 1_400_000, 5_300_000, 5_500_000, 20_000, 500_000, 500_000),
    ("arm64", "litert-compiled", "xnnpack"): Cost(940_000, 1_400_000, 5_900_000, 6_100_000, 20_000, 500_000, 500_000),
    ("arm64", "tflite-runtime", "reference"): Cost(500_000, 420_000, 2_250_000, 2_500_000, 100_000, 100_000, 250_000),
    ("arm64", "tflite-runtime", "builtin"): Cost(500_000, 420_000, 2_250_000, 2_500_000, 100_000, 100_000, 250_000),
    ("arm64", "tflite-runtime", "xnnpack"): Cost(500_000, 460_000, 2_560_000, 2_760_000, 100_000, 250_000, 250_000),
}


def predict_litert(model: schema.ModelT, file_bytes: int, profile: Profile, machine: Machine) -> RamPrediction | None:
    """Objects of a .tflite file, as `read_tflite` checks them → its RAM under a profile; None for a profile of another
    runtime.

    A tensor of a shape known at run time only counts as the file declares it (a note says so); a batch that is
    symbolic counts as 1.
    """
    session = profile.session
    if profile.runtime not in BASELINES[machine] or not isinstance(session, LiteRtSession):
        return None
    version: DelegateVersion = "tflite-runtime" if profile.runtime == "tflite-runtime" else "litert"
    kernels: Kernels = "reference" if session.kernels == "reference" else "builtin"
    delegate = plan_xnnpack(model, machine, session.threads, version) if session.kernels == "xnnpack" else NO_DELEGATE
    cached = profile.runtime == COMPILED
    if cached:
        delegate = with_weight_cache(model, delegate)
    graphs = read_graphs(model)
    # On arm64 ruy multiplies, however many threads there are; the kernels transposed for Eigen are of x86-64 only.
    arena = plan_arena(model, kernels, session.threads if machine == "x86-64" else 1, delegate.taken)
    multiplied = [product for number, graph in enumerate(graphs) for product in products(graph, _of(delegate, number))]
    ruy = ruy_block(multiplied, machine, version) if kernels == "builtin" else RuyBlock(0, 0)
    in_eigen = eigen_bytes(multiplied, machine, version) if kernels == "builtin" else 0
    in_gemmlowp = gemmlowp_bytes(multiplied, machine, version) if kernels == "builtin" else 0

    cost = COSTS[machine, profile.runtime, "xnnpack" if delegate.taken else kernels]
    objects = NODE_BYTES * sum(len(graph.operators) for graph in graphs)
    objects += SCALE_BYTES * sum(len(tensor.scales) for graph in graphs for tensor in graph.tensors)
    objects += _sparse_indices(model)
    dequantised = sum(kernel.heap_bytes for kernel in delegate.kernels)
    tables = delegate.heap_bytes - dequantised
    kept = _kept_kernels(graphs, arena)
    fatal = _fatal_on_arm64(graphs) if (machine, version) == ("arm64", "tflite-runtime") else ()
    loaded = RamParts(
        mapped_bytes=_mapped_with_cache(model, file_bytes, delegate)
        if cached
        else _mapped_when_open(model, file_bytes, delegate),
        heap_bytes=dequantised,
        packed_bytes=0 if cached else delegate.packed_bytes,  # a warm cache is read when it runs
        arena_bytes=delegate.workspace_bytes + tables - delegate.first_run_bytes,
        library_bytes=objects + cost.heap_loaded + cost.code_loaded,
    )
    floats = any(graphs[0].tensors[index].kind == "FLOAT32" for index in (*graphs[0].inputs, *graphs[0].outputs))
    freed = max(cost.run_peak_float if floats else cost.run_peak, in_eigen)  # one after the other, in the same place
    if version == "tflite-runtime":
        freed += _unpacked_kernel(graphs, delegate)
    else:
        keeps = SEVERAL_LOOPS_KEEP if _loops(graphs) > 1 and not cached else ONE_LOOP_KEEPS
        freed += int(keeps * sum(graph.arena_bytes - graph.untouched_bytes for graph in arena.graphs[1:]))
    activations = arena.arena_bytes + arena.heap_bytes - sum(graph.untouched_bytes for graph in arena.graphs)
    run_peak = RamParts(
        mapped_bytes=_mapped_with_cache(model, file_bytes, delegate) if cached else _mapped_when_run(model, file_bytes),
        heap_bytes=dequantised + kept,
        packed_bytes=delegate.packed_bytes,
        arena_bytes=delegate.workspace_bytes + tables + activations - kept + ruy.peak_bytes + in_gemmlowp,
        library_bytes=objects + cost.heap_run + cost.code_run + freed,
    )
    return RamPrediction(
        profile=profile.name,
        baseline_bytes=BASELINES[machine][profile.runtime],
        load_peak_bytes=loaded.total_bytes + cost.load_peak,
        loaded=loaded,
        run_peak=run_peak,
        kernels=_held_kernels(model, graphs, delegate),
        notes=tuple(
            dict.fromkeys(
                (
                    *fatal,
                    *arena.notes,
                    *delegate.notes,
                    *_notes(model, session.threads),
                    *([ROUGH_LOOPS] if _loops(graphs) > 1 else []),
                    *(cache_notes(delegate, machine) if cached else ()),
                )
            )
        ),
        cache_bytes=delegate.packed_bytes if cached else 0,
    )


def _unpacked_kernel(graphs: tuple[Graph, ...], delegate: XnnpackPlan) -> int:
    """tflite-runtime 2.14 clears room for two int8 kernels while a convolution runs, as if its own were int4."""
    return max(
        (
            2 * graph.tensors[operator.inputs[1]].size_bytes
            for number, graph in enumerate(graphs)
            for index, operator in enumerate(graph.operators)
            if operator.op_type == "CONV_2D"
            and (number, index) not in delegate.taken
            and min(operator.inputs[:2], default=-1) >= 0
            and len(operator.inputs) > 1
            and graph.tensors[operator.inputs[0]].kind == "INT8"
        ),
        default=0,
    )


NO_DELEGATE = XnnpackPlan(frozenset(), (), 0, 0, 0, 0, (), ())


def _of(delegate: XnnpackPlan, number: int) -> Collection[int]:
    return {operator for graph, operator in delegate.taken if graph == number}


def _fatal_on_arm64(graphs: tuple[Graph, ...]) -> tuple[str, ...]:
    """tflite-runtime 2.14 for arm64 reads the bias of an int8 FULLY_CONNECTED without asking whether there is one, but
    for a vector by a matrix of some size (cpu_backend_gemm_custom_gemv.h)."""
    found = []
    for graph in graphs:
        for index, operator in enumerate(graph.operators):
            if operator.op_type != "FULLY_CONNECTED" or min(operator.inputs[:2], default=-1) < 0:
                continue
            if len(operator.inputs) < 2 or (len(operator.inputs) > 2 and operator.inputs[2] >= 0):
                continue
            x, kernel = (graph.tensors[number] for number in operator.inputs[:2])
            if x.kind != "INT8" or len(kernel.shape) != 2:
                continue
            units, depth = kernel.shape
            if units < 4 or depth < 8 or x.elements > depth:
                found.append(f"it dies at operator {index}: an int8 FULLY_CONNECTED needs a bias there")
    return tuple(found[:1])


def _sparse_indices(model: schema.ModelT) -> int:
    """Bytes of the interpreter's own copies of where sparse kernels have their weights: int32, however stored."""
    entries = [
        entry
        for graph in model.subgraphs
        for tensor in graph.tensors
        if tensor.sparsity is not None
        for entry in tensor.sparsity.dimMetadata or []
    ]
    vectors = [vector for entry in entries for vector in (entry.arraySegments, entry.arrayIndices)]
    return sum(4 * len(vector.values) for vector in vectors if vector is not None and vector.values is not None)


def _notes(model: schema.ModelT, threads: int) -> tuple[str, ...]:
    found = []
    tensors = model.subgraphs[0].tensors
    for tensor in (tensors[index] for index in whole_numbers(model.subgraphs[0].inputs)):
        if -1 in whole_numbers(tensor.shapeSignature):
            shape = "×".join(map(str, whole_numbers(tensor.shape)))
            found.append(f"input {tensor_name(tensor)!r} is of an open size, taken as {shape}, as the file declares it")
    if any(_is_odd(tensor) for graph in model.subgraphs for tensor in graph.tensors):
        found.append("RAM is rough (± 20 %) where a file has sparse kernels of blocks, or of several axes")
    if threads > 1:
        found.append("what more than one thread takes for itself is not counted")
    return tuple(found)


def _is_odd(tensor: schema.TensorT) -> bool:
    """Whether a tensor is sparse in another way than edgeks writes."""
    sparse = tensor.sparsity
    if sparse is None:
        return False
    blocks = sparse.blockMap is not None and len(sparse.blockMap) > 0
    return blocks or [entry.format for entry in sparse.dimMetadata or []][:-1].count(CSR) > 0


def _loops(graphs: tuple[Graph, ...]) -> int:
    return sum(operator.op_type == "WHILE" for operator in graphs[0].operators)


def _sizes(model: schema.ModelT) -> list[int]:
    """Bytes of every buffer."""
    return [0 if buffer.data is None else len(buffer.data) for buffer in model.buffers]


def _mapped_when_open(model: schema.ModelT, file_bytes: int, delegate: XnnpackPlan) -> int:
    """Opening checks every buffer's header, and touches pages around it; packing reads kernels whole.

    Buffers behind the flatbuffer (ai-edge-quantizer's) have no header there: of those less is mapped. More is mapped
    where Linux keeps the file in large folios, as one that was just written: a touch maps a whole one, up to 2 MB. The
    first inference maps the rest anyway, so that the peak of running is the larger one.
    """
    packed = {kernel.buffer for kernel in delegate.kernels}
    unread = sum(max(size - READ_AHEAD, 0) for buffer, size in enumerate(_sizes(model)) if buffer not in packed)
    return _pages(file_bytes - unread)


def _mapped_when_run(model: schema.ModelT, file_bytes: int) -> int:
    """All but large buffers that no operator reads."""
    read = {
        int(graph.tensors[index].buffer)
        for graph in model.subgraphs
        for operator in (graph.operators if graph.operators is not None else [])
        for index in whole_numbers(operator.inputs)
        if index >= 0
    }
    unread = sum(max(size - READ_AHEAD, 0) for buffer, size in enumerate(_sizes(model)) if buffer not in read)
    return _pages(file_bytes - unread)


def _mapped_with_cache(model: schema.ModelT, file_bytes: int, delegate: XnnpackPlan) -> int:
    """Kernels that the weight cache holds packed are not read in the file; the cache itself counts as packed."""
    packed = {kernel.buffer for kernel in delegate.kernels if kernel.packed_copies and not kernel.heap_copies}
    unread = sum(max(size - READ_AHEAD, 0) for buffer, size in enumerate(_sizes(model)) if buffer in packed)
    return _pages(file_bytes - unread)


def _pages(count: int) -> int:
    return rounded_up(max(count, 0), PAGE)


def _kept_kernels(graphs: tuple[Graph, ...], arena: TfliteArena) -> int:
    """Bytes of the persistent arenas that hold dequantised or transposed kernels."""
    total = 0
    for planned in arena.graphs:
        graph = graphs[planned.graph]
        made = {output for operator in graph.operators if operator.op_type in KEPT for output in operator.outputs}
        total += sum(block.size_bytes for block in planned.persistent if block.tensor in made)
    return total


def _held_kernels(model: schema.ModelT, graphs: tuple[Graph, ...], delegate: XnnpackPlan) -> tuple[HeldKernel, ...]:
    """Every kernel of the file, those of which most bytes are held first. One that is read in place has no copies."""
    layers: dict[int, int] = defaultdict(int)
    names: dict[int, str] = {}
    for operator in kernel_operators(model):
        layers[operator.buffer] += len(operator.layers)
        names.setdefault(operator.buffer, tensor_name(operator.tensor))
    copies: dict[int, list[int]] = defaultdict(list)
    for kernel in delegate.kernels:
        copies[kernel.buffer] += _even(kernel.packed_copies, kernel.packed_bytes)
        copies[kernel.buffer] += _even(kernel.heap_copies, kernel.heap_bytes)
    for number, graph in enumerate(graphs):
        taken = _of(delegate, number)
        for index, read in enumerate(graph.operators):
            if read.op_type not in KEPT or index in taken or min(*read.inputs, *read.outputs, 0, 0) < 0:
                continue
            if read.inputs and read.outputs and graph.tensors[read.inputs[0]].constant:
                buffer = int(model.subgraphs[number].tensors[read.inputs[0]].buffer)
                copies[buffer].append(graph.tensors[read.outputs[0]].size_bytes)
    held = [
        HeldKernel(name, layers[buffer], len(copies[buffer]), int(np.mean(copies[buffer])) if copies[buffer] else 0)
        for buffer, name in names.items()
    ]
    return tuple(sorted(held, key=lambda kernel: -kernel.copies * kernel.copy_bytes))


def _even(copies: int, total_bytes: int) -> list[int]:
    return [total_bytes // copies] * copies if copies else []
