"""Every zoo network in every form as .tflite: proven without edgeks' code, the same numbers in every runtime."""

import functools
import hashlib
import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from networks import inputs_of, small_checkpoint
from one_capture import one_capture
from onnx import numpy_helper
from plain_tflite import PlainTflite, require_exactly_once, require_sound
from tflite_runtime_env import PYTHON, tflite_runtime

from edgeks.exporter import export
from edgeks.formats import onnx as onnx_format
from edgeks.formats.tflite.runtime import open_interpreter
from edgeks.graph.float_graph import float_graph
from edgeks.graph.passes.split_large_kernels import split_large_kernels
from edgeks.interface import Interface
from edgeks.models.convmixer import ConvMixer
from edgeks.models.se_resnet import SEResNet
from edgeks.parity import compare_all
from edgeks.quant.options import Int8Options
from edgeks.quant.quantise import quantise
from edgeks.samples import Samples
from edgeks.target import KERNEL_LIBRARIES, LiteRtSession, load_target

TARGET = load_target("tflite")
NETWORKS = {
    "ConvMixer": lambda: ConvMixer(8, 4, 3, 2, 0),
    "ConvMixer, 2 kernels": lambda: ConvMixer(8, 4, 3, 2, 2),
    "ConvMixer, 4 kernels": lambda: ConvMixer(8, 4, 3, 2, 4),
    "ConvMixer, 2 kernels, 9×9": lambda: ConvMixer(8, 2, 9, 1, 2),
    "SE-ResNet": lambda: SEResNet(2, (), widths=(8, 16), stem_width=8, reduction=4),
    "SE-ResNet, shared": lambda: SEResNet(2, (1, 2), widths=(8, 16), stem_width=8, reduction=4),
}
KINDS = {
    "fp32": {},
    "fp16": {"float16": True},
    **{mode: {"int8": True, "options": Int8Options(activations=mode)} for mode in ("static", "dynamic", "float")},
}
ON_EDGES = {
    "static, int8": {**KINDS["static"], "io": "int8"},
    "static, uint8": {**KINDS["static"], "io": "uint8"},
    "dynamic, uint8": {**KINDS["dynamic"], "io": "uint8"},
    "static, NCHW": {**KINDS["static"], "nhwc": False},
    "fp32, NCHW": {"nhwc": False},
}
FLOORS_DB = {"fp16": 50, "static": 25, "dynamic": 30, "float": 30}
RUNTIMES = [*KERNEL_LIBRARIES, *(["tflite-runtime"] if PYTHON.exists() else [])]


@pytest.fixture(scope="module", autouse=True)
def captured_once():
    with one_capture():
        yield


@functools.cache
def checkpoint_named(network):
    torch.manual_seed(0)
    return small_checkpoint(NETWORKS[network]())


def groups_of(path):
    """Layers by kernel, as the ledger beside the file says."""
    plan = json.loads(path.with_name(path.name + ".ledger.json").read_text())["plan"]
    return [tuple(group["layers"]) for group in (*plan["groups"], *plan["unshared"])]


def outputs(path, inputs, runtime):
    """Real inputs N×C×H×W → the file's own output for each, codes where it gives codes."""
    described = Interface.from_dict(PlainTflite(path).metadata["edgeks.interface"])
    held = described.inputs[0].encode(inputs)
    if runtime == "tflite-runtime":
        found = tflite_runtime(path, [held])[0]
    else:
        interpreter = open_interpreter(path, LiteRtSession(1, runtime))
        feed, result = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
        rows = []
        for sample in held:
            interpreter.set_tensor(feed, sample[None])
            interpreter.invoke()
            rows.append(interpreter.get_tensor(result)[0].copy())
        found = np.array(rows)
    return described.outputs[0].decode(found)


def require_proof(path):
    file, ledger = PlainTflite(path), json.loads(path.with_name(path.name + ".ledger.json").read_text())
    require_exactly_once(file, groups_of(path))
    require_sound(file)
    assert file.metadata["edgeks.preprocessing"]["classes"] == ["a", "b"]
    rows = json.dumps([ledger["steps"], ledger["plan"]], sort_keys=True)
    digest = hashlib.sha256(rows.encode()).hexdigest()
    assert file.metadata["edgeks.ledger_sha256"] == ledger["ledger_sha256"] == digest
    assert ledger["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def torch_outputs(checkpoint):
    with torch.no_grad():
        return checkpoint.model(torch.from_numpy(inputs_of(checkpoint))).numpy()


def steps_apart(found, expected, step):
    """Of all elements, the share within one output step, and the most steps."""
    steps = np.abs(found - expected) / step
    return np.mean(steps < 1.5), steps.max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_zoo_network_in_every_form(network, kind, tmp_path):
    """As near to torch as the form promises in every runtime.

    XNNPACK computes the codes of the QDQ graph. Each int8 operator of the other kernels is within one code of those
    too, and not always the same one; a network carries such differences on.
    """
    checkpoint, path = checkpoint_named(network), tmp_path / "m.tflite"
    export(checkpoint, path, TARGET, **KINDS[kind])
    require_proof(path)
    expected = torch_outputs(checkpoint)
    found = {runtime: outputs(path, inputs_of(checkpoint), runtime) for runtime in RUNTIMES}
    for runtime, values in found.items():
        if kind == "fp32":
            assert np.abs(values - expected).max() <= 1e-4 * np.abs(expected).max(), runtime
        else:
            assert compare_all([expected], [values]).sqnr_db > FLOORS_DB[kind], runtime
    if kind == "static":
        codes, step = qdq_outputs(checkpoint, tmp_path / "qdq.onnx")
        assert steps_apart(found["xnnpack"], codes, step)[0] >= 0.99
        for runtime in RUNTIMES:
            within, most = steps_apart(found[runtime], codes, step)
            assert within >= 0.85 and most < 4.5, runtime


@pytest.mark.parametrize("kind", ON_EDGES)
def test_other_inputs_and_outputs(kind, tmp_path):
    checkpoint, path = checkpoint_named("SE-ResNet, shared"), tmp_path / "m.tflite"
    export(checkpoint, path, TARGET, **ON_EDGES[kind])
    require_proof(path)
    file = PlainTflite(path)
    given, result = file.tensors[file.inputs[0]], file.tensors[file.outputs[0]]
    assert given.shape == ((1, 3, 12, 12) if "NCHW" in kind else (1, 12, 12, 3))
    types = {"int8": schema.TensorType.INT8, "uint8": schema.TensorType.UINT8}
    wanted = types.get(kind.rpartition(", ")[2], schema.TensorType.FLOAT32)
    assert given.type == result.type == wanted
    fed = checkpoint.calibration if "uint8" in kind else inputs_of(checkpoint)
    for runtime in RUNTIMES:
        floor = 90 if kind.startswith("fp32") else 25
        assert compare_all([torch_outputs(checkpoint)], [outputs(path, fed, runtime)]).sqnr_db > floor, runtime


def qdq_outputs(checkpoint, path):
    """What ONNX Runtime, without optimisation, gives for the graph that the exporter lowers; and the step of it."""
    inputs = inputs_of(checkpoint)
    graph, ledger = float_graph(checkpoint.model, inputs[:1], TARGET.opset)
    ledger.replan("split_large_kernels", graph, lambda: split_large_kernels(graph, ledger.plan))
    scheme = replace(TARGET.int8, mode="static")
    quantise(graph, ledger, Samples(inputs, "", real=True), scheme, Int8Options())
    onnx_format.write_onnx(graph, path)
    proto = onnx.load(path).graph
    (last,) = (node for node in proto.node if proto.output[0].name in node.output)
    step = next(numpy_helper.to_array(t) for t in proto.initializer if t.name == last.input[1])
    return onnx_format.run(onnx_format.open_session(path, onnx_format.REFERENCE), inputs)[0], float(step)
