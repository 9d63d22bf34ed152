"""`export --sparse`: pruned kernels in fewer bytes, bit-equal outputs, proven and audited like any other file."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from networks import SharedConvs, checkpoint_of, inputs_of, randomise_batch_norm, small_checkpoint, smooth_samples
from one_capture import one_capture
from onnx import helper, numpy_helper
from torch import nn

from edgeks.artefact import REFERENCES, prove_artefact, run_artefact
from edgeks.audit.footprint import footprint
from edgeks.audit.onnx.kernels import list_kernels
from edgeks.errors import ConfigError, ModelFileError, SharingBroken
from edgeks.exporter import export
from edgeks.formats.sparse_onnx import store_sparse
from edgeks.formats.tflite.sparse import store_sparse as store_sparse_tflite
from edgeks.graph.onnx_network import load_onnx
from edgeks.measured_footprint import with_measurements
from edgeks.model_files.onnx_file import SparseConstant, read_model_file
from edgeks.model_files.onnx_sparse import function, sparse_kernel
from edgeks.model_files.tflite_file import constant, pack, read_tflite
from edgeks.prepare_onnx import prepare_onnx
from edgeks.pruning import pruned
from edgeks.quant.options import Int8Options
from edgeks.runtime_profile import MeasuredRam
from edgeks.sharing.plan import SharingGroup, SharingPlan
from edgeks.target import load_target

WIDTH, SHAPE = 68, (3, 6, 6)
DENSIFY = schema.BuiltinOptions.DensifyOptions
KINDS = [(target, precision) for target in ("onnx", "tflite") for precision in ("fp32", "int8")]


class Blended(nn.Module):
    """(conv 3×3 of one kernel – 1×1 blending – BN – ReLU) twice, mean, Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.first, self.second = (nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False) for _ in range(2))
        self.second.weight = self.first.weight
        self.blend = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(WIDTH) for _ in range(2))
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x):
        x = self.stem(x)
        for conv, blend, norm in zip((self.first, self.second), self.blend, self.norms, strict=True):
            x = norm(blend(conv(x))).relu()
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def checkpoint():
    torch.manual_seed(0)
    return checkpoint_of(randomise_batch_norm(Blended(), smooth_samples((16, *SHAPE))), SHAPE)


@pytest.fixture(scope="module")
def files(checkpoint, tmp_path_factory):
    """(target, precision) → reports of the dense and the compact export at 80 % pruned."""
    folder, smaller = tmp_path_factory.mktemp("files"), pruned(checkpoint, 0.8)
    found = {}
    with one_capture():
        for target, precision in KINDS:
            reports = []
            for way in ("dense", "sparse"):
                path = folder / f"{precision}_{way}.{target}"
                chosen = load_target(target)
                reports.append(export(smaller, path, chosen, int8=precision == "int8", sparse=way == "sparse"))
            found[target, precision] = tuple(reports)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_bytes_and_the_same_outputs(files, checkpoint, kind):
    dense, sparse = files[kind]
    assert sparse.zeros.sparse and not dense.zeros.sparse
    assert sparse.zeros.kernels == 2 and sparse.zeros.weights == 2 * WIDTH**2
    assert sparse.zeros.zeros >= round(0.8 * 2 * WIDTH**2)
    assert dense.zeros.sparse_bytes == sparse.file_bytes < dense.file_bytes == sparse.zeros.dense_bytes
    assert sparse.file_bytes == sparse.path.stat().st_size
    for session in (REFERENCES[kind[0]], load_target(kind[0]).session):
        outputs = [run_artefact(report.path, session, inputs_of(checkpoint)) for report in (dense, sparse)]
        assert np.array_equal(*(found[0] for found in outputs))


@pytest.mark.parametrize("kind", KINDS)
def test_the_proof_holds_on_the_compact_file_and_fails_where_the_plan_is_wrong(files, kind):
    _, sparse = files[kind]
    plan = sparse.ledger.plan
    assert sparse.proof.kernels_stored == 5 and len(sparse.proof.groups) == 1
    prove_artefact(sparse.path, kind[0], plan)
    first, second = (kernel for kernel in plan.unshared if "blend" in kernel.name)
    rest = tuple(kernel for kernel in plan.unshared if kernel not in (first, second))
    tied = SharingGroup("blend", (*first.layers, *second.layers), first.kernel_shape)
    with pytest.raises(SharingBroken, match="blend"):
        prove_artefact(sparse.path, kind[0], SharingPlan((*plan.groups, tied), rest))


@pytest.mark.parametrize("kind", KINDS)
def test_the_footprint_has_the_bytes_of_the_file_and_ram_of_dense_kernels(files, kind):
    dense, sparse = (footprint(report.path) for report in files[kind])
    assert sparse.flash.file_bytes == files[kind][1].file_bytes
    assert sparse.flash.kernels == dense.flash.kernels and sparse.flash.layers == dense.flash.layers
    assert sparse.flash.saved_bytes == dense.flash.saved_bytes
    assert dense.flash.constant_bytes - sparse.flash.constant_bytes > 0.5 * (
        dense.flash.file_bytes - sparse.flash.file_bytes
    )
    for before, after in zip(dense.ram, sparse.ram, strict=True):
        assert not [note for note in after.predicted.notes if "rough" in note and "sparse" in note]
        assert after.predicted.run_peak.total_bytes >= before.predicted.run_peak.total_bytes - 40_000


def test_predicted_ram_of_compact_kernels_is_measured(tmp_path):
    """What densifying leaves in RAM, on kernels large enough to be seen beside a runtime's own megabytes."""
    torch.manual_seed(0)
    wide = nn.Sequential(*(nn.Conv2d(768, 768, 1, bias=False) for _ in range(2)), nn.Flatten(), nn.Linear(768, 2))
    smaller = pruned(checkpoint_of(wide, (768, 1, 1), samples=4), 0.7)
    for target in ("onnx", "tflite"):
        chosen = load_target(target)
        path = export(smaller, tmp_path / f"wide.{target}", chosen, sparse=True).path
        found = footprint(path, chosen)
        found = with_measurements(replace(found, ram=found.ram[:1])).ram[0]
        assert isinstance(found.measured, MeasuredRam)
        assert abs(found.predicted.run_peak.total_bytes / found.measured.run_peak_bytes - 1) < 0.2


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("qoperator", {"int8": True, "options": Int8Options(form="qoperator")}),
        ("float16", {"float16": True}),
        ("rolled", {"layers": "rolled", "int8": True}),
    ],
)
def test_every_form_of_onnx(checkpoint, tmp_path, name, options):
    with one_capture():
        report = export(pruned(checkpoint, 0.8), tmp_path / f"{name}.onnx", load_target("onnx"), sparse=True, **options)
    assert report.zeros.sparse
    assert any(isinstance(kernel.constant, SparseConstant) for kernel in list_kernels(report.path))


def test_onnx_runtime_makes_kernels_dense_once_at_load(files, tmp_path):
    """What is left of the graph has no more nodes than the dense file's: nothing is unpacked at an inference."""
    ops = []
    for report in files["onnx", "fp32"]:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        options.log_severity_level = 3
        ort.InferenceSession(str(report.path), options, providers=["CPUExecutionProvider"])
        ops.append([node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node])
    assert ops[0] == ops[1]


def test_the_file_is_sound_onnx_and_other_tools_see_dense_kernels(files):
    dense, sparse = files["onnx", "int8"]
    proto = onnx.load(sparse.path)
    onnx.checker.check_model(proto)
    inlined = onnx.inliner.inline_local_functions(proto)
    assert not inlined.functions
    assert {k.name: k.values().tobytes() for k in list_kernels(dense.path)} == {
        k.name: k.values().tobytes() for k in list_kernels(sparse.path)
    }


def test_a_compact_float_file_is_exported_again(files, tmp_path):
    dense, sparse = files["onnx", "fp32"]
    again = [
        export(load_onnx(r.path), tmp_path / r.path.name, load_target("onnx"), input_shape=SHAPE)
        for r in (dense, sparse)
    ]
    before, after = (tmp_path / report.path.name for report in again)
    kernels = [sorted(kernel.values().tobytes() for kernel in list_kernels(path)) for path in (before, after)]
    assert kernels[0] == kernels[1]


def test_a_compact_file_is_prepared(files, tmp_path):
    path = Path(shutil.copy(files["onnx", "fp32"][1].path, tmp_path / "m.onnx"))
    assert prepare_onnx(path, load_target("onnx")).shared_kernels == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, np.uint8])
@pytest.mark.parametrize("shape", [(3, 5, 1, 1), (8, 8), (1, 1, 7, 1)])
def test_standard_onnx_is_smaller_only_below_a_third_and_bits_are_exact_for_every_type(dtype, shape, tmp_path):
    """The bits' function in ONNX Runtime gives the kernel bit for bit, also where the weights are no multiple of 8."""
    rng = np.random.default_rng(0)
    kernel = rng.integers(1, 90, shape).astype(dtype)
    kernel[rng.random(shape) < 0.6] = 0
    stored = sparse_kernel(kernel)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    call = helper.make_node("Densify", ["bits", "values"], ["y"], domain="edgeks", shape=shape)
    parts = [numpy_helper.from_array(stored.bits, "bits"), numpy_helper.from_array(stored.values, "values")]
    graph = helper.make_graph([call], "g", [], [helper.make_tensor_value_info("y", kind, shape)], parts)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("edgeks", 1)]
    proto = helper.make_model(graph, opset_imports=opsets, functions=[function(20)], ir_version=10)
    onnx.checker.check_model(proto)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {})[0].tobytes() == kernel.tobytes()
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    (read,) = read_model_file(path).all_constants()
    assert read.array().tobytes() == kernel.tobytes() == read.content().tobytes()


def coo_bytes(weights: int, kept: int, dtype: type) -> int:
    """Of a graph's `sparse_initializer`, as onnx's checker and ONNX Runtime take it."""
    kernel = np.zeros(weights, dtype)
    kernel[:kept] = 1
    values, indices = (numpy_helper.from_array(a) for a in (kernel[:kept], np.arange(kept, dtype=np.int64)))
    return helper.make_sparse_tensor(values, indices, [weights]).ByteSize()


def test_why_not_onnx_s_own_sparse_form():
    """12 bytes for a weight of fp32 that is kept, 9 for one of int8, against a bit for each and the weight itself."""
    for dtype, size, pays in ((np.float32, 4, 1 / 3), (np.int8, 1, 1 / 9)):
        assert coo_bytes(9000, int(9000 * pays) + 60, dtype) > 9000 * size
        assert coo_bytes(9000, int(9000 * pays) - 60, dtype) < 9000 * size
        kernel = np.zeros((100, 90), dtype)
        kernel.flat[: int(9000 * pays)] = 1
        assert sparse_kernel(kernel).stored_bytes < 0.5 * 9000 * size


def test_nothing_is_stored_so_where_nothing_is_saved(checkpoint, tmp_path):
    whole = export(checkpoint, tmp_path / "whole.onnx", load_target("onnx"), sparse=True)
    assert whole.zeros is None and not onnx.load(whole.path).functions
    few = export(pruned(checkpoint, 0.3), tmp_path / "few.tflite", load_target("tflite"), int8=True, sparse=True)
    assert few.zeros is not None and not few.zeros.sparse and few.zeros.sparse_bytes == few.zeros.dense_bytes
    assert "saves nothing here" in few.zeros.describe("tflite")
    assert not store_sparse(onnx.load(whole.path))
    assert not (tmp_path / "few.tflite.sparse").exists() and len(list(tmp_path.iterdir())) == 4


def test_a_cached_form_and_a_session_without_folding_are_refused(checkpoint, tmp_path):
    with pytest.raises(ConfigError, match="weight cache holds kernels packed"):
        export(checkpoint, tmp_path / "m.tflite", load_target("tflite"), layers="cached", sparse=True)
    text = (Path(__file__).parents[1] / "export" / "onnx.toml").read_text(encoding="utf-8")
    slow = tmp_path / "slow.toml"
    slow.write_text(text.replace('graph_optimization = "all"', 'graph_optimization = "disabled"'), encoding="utf-8")
    with pytest.raises(ConfigError, match="dense again at every inference"):
        export(checkpoint, tmp_path / "m.onnx", load_target(str(slow)), sparse=True)


def test_a_kernel_with_several_tensors_stays_dense_in_tflite(tmp_path):
    """Layers of one int8 kernel with BN have a tensor each: a DENSIFY each would put as many dense copies into RAM."""
    shared = pruned(small_checkpoint(SharedConvs(32)), 0.9, layers="convs.*")
    report = export(shared, tmp_path / "m.tflite", load_target("tflite"), int8=True, sparse=True, min_sqnr_db=-100)
    assert report.zeros.kernels == 1 and report.zeros.zeros > 0.8 * 32 * 32 * 9 and not report.zeros.sparse
    assert not any(tensor.sparsity for tensor in read_tflite(report.path).subgraphs[0].tensors)


def test_a_convolution_cannot_read_a_sparse_kernel_itself(files, tmp_path):
    """Why there is a DENSIFY: LiteRT takes the bytes of the kept weights for a dense kernel."""
    dense, sparse = files["tflite", "int8"]
    model = read_tflite(sparse.path)
    graph = model.subgraphs[0]
    made = {int(op.outputs[0]): int(op.inputs[0]) for op in graph.operators if op.builtinOptionsType == DENSIFY}
    assert made
    graph.operators = [op for op in graph.operators if op.builtinOptionsType != DENSIFY]
    for operator in graph.operators:
        operator.inputs = np.array([made.get(int(index), int(index)) for index in operator.inputs], np.int32)
    # Behind the kept weights zeros, so that what it reads is not chance.
    for index in made.values():
        tensor = graph.tensors[index]
        buffer = model.buffers[tensor.buffer]
        buffer.data = np.pad(np.asarray(buffer.data), (0, int(np.prod(tensor.shape)) - len(buffer.data)))
    path = tmp_path / "direct.tflite"
    path.write_bytes(pack(model))
    rng = np.random.default_rng(0)
    outputs = []
    for file in (dense.path, path):
        interpreter = Interpreter(
            str(file), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        )
        interpreter.allocate_tensors()
        feed = interpreter.get_input_details()[0]
        rng = np.random.default_rng(0)
        interpreter.set_tensor(feed["index"], rng.standard_normal(feed["shape"]).astype(np.float32))
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    assert not np.allclose(*outputs, atol=0.01)


def test_damaged_compact_files_are_refused_in_one_line(files, tmp_path):
    proto = onnx.load(files["onnx", "fp32"][1].path)
    bits = next(tensor for tensor in proto.graph.initializer if tensor.name.endswith(".bits"))
    whole = bits.raw_data
    for damage, message in ((b"", "bytes of bits"), (bytes(len(whole)), "weights are kept")):
        bits.raw_data = damage
        if not damage:
            del bits.dims[:]
            bits.dims.extend([0, 1])
        else:
            del bits.dims[:]
            bits.dims.extend([len(whole), 1])
        path = tmp_path / "m.onnx"
        path.write_bytes(proto.SerializeToString())
        with pytest.raises(ModelFileError, match=message):
            footprint(path)
    model = read_tflite(files["tflite", "fp32"][1].path)
    tensor = next(tensor for tensor in model.subgraphs[0].tensors if tensor.sparsity is not None)
    for damage in (lambda c: c + 60, lambda c: c[:-1]):
        model = read_tflite(files["tflite", "fp32"][1].path)
        tensor = next(tensor for tensor in model.subgraphs[0].tensors if tensor.sparsity is not None)
        columns = tensor.sparsity.dimMetadata[-1].arrayIndices
        columns.values = damage(np.asarray(columns.values))
        path = tmp_path / "m.tflite"
        path.write_bytes(pack(model))
        with pytest.raises(ModelFileError, match="indices do not fit"):
            footprint(path)


def test_a_small_file_cannot_ask_for_a_huge_kernel(files, tmp_path):
    proto = onnx.load(files["onnx", "fp32"][1].path)
    call = next(node for node in proto.graph.node if node.op_type == "Densify")
    call.attribute[0].ints[:] = [1 << 20, 1 << 20]
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelFileError, match="up to 2 GB"):
        footprint(path)
    model = read_tflite(files["tflite", "fp32"][1].path)
    tensor = next(tensor for tensor in model.subgraphs[0].tensors if tensor.sparsity is not None)
    tensor.shape = np.array([WIDTH, 1, 1, 1 << 24], np.int32)
    path = tmp_path / "m.tflite"
    path.write_bytes(pack(model))
    with pytest.raises(ModelFileError, match="of which"):
        footprint(path)


def test_another_function_of_that_name_is_not_ours(files, tmp_path):
    """What a file calls edgeks.Densify is read as what its body says."""
    proto = onnx.load(files["onnx", "fp32"][1].path)
    proto.functions[0].node[-1].op_type = "Identity"
    del proto.functions[0].node[-1].input[1:]
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    assert not any(isinstance(constant, SparseConstant) for constant in read_model_file(path).all_constants())


def test_densified_constants_are_the_dense_kernels(files):
    dense, sparse = (read_tflite(report.path) for report in files["tflite", "int8"])
    before = {constant(dense, t).tobytes() for t in dense.subgraphs[0].tensors if constant(dense, t) is not None}
    found = [constant(sparse, t) for t in sparse.subgraphs[0].tensors if t.sparsity is not None]
    assert len(found) == 2 and all(kernel.tobytes() in before for kernel in found)
    assert store_sparse_tflite(dense) == 2
