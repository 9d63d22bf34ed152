"""Blocks that repeat → the body of one Loop, which reads the shared kernels from outside and gathers what differs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from edgeks.errors import ConfigError, GraphError
from edgeks.graph.kernels import array, kernel_read, required
from edgeks.graph.repeats import Run, find_runs, why_not
from edgeks.graph.rewrite import drop_unused_initializers, new_initializer
from edgeks.sharing.plan import Rolled
from edgeks.target import Int8Form, Int8Scheme
from edgeks.wording import counted


def roll(model: ir.Model) -> tuple[Rolled, str]:
    """Every run of repeated structure as one Loop. Gives name of a layer in a body → the layers it stands for.

    A body's layers keep the names of the first unit. Constants that differ are stacked along a new first axis, of
    which each trip gathers its own; the rest is read from the main graph. The graph computes the same numbers.

    Raises:
        GraphError: nothing repeats; it says where the layers that share a kernel part.
    """
    _infer_shapes(model)
    rolled: dict[str, tuple[str, ...]] = {}
    notes = []
    for number, run in enumerate(find_runs(model)):
        layers = _layers(run)
        _replace(model, run, f"loop_{number}")
        rolled |= layers
        notes.append(f"{run.count} × {run.period} nodes, {sum(map(len, layers.values()))} layers")
    drop_unused_initializers(model)
    if not rolled:
        raise GraphError(f"nothing can be rolled into a loop: {why_not(model)}; export it with --form unrolled")
    return rolled, f"{counted(len(notes), 'loop')}: {'; '.join(notes)}"


def rolled_scheme(scheme: Int8Scheme, asked: Int8Form | None = None) -> Int8Scheme:
    """How a loop's body is quantised; `asked`: the form that was asked for.

    Static in ONNX: as operators, since ONNX Runtime runs a QDQ convolution with gathered scales in float, and with u8
    activations: s8 ones run six times slower so on x86, and a fifth slower on a Cortex-A72.

    Raises:
        ConfigError: static in TFLite, where a kernel's scales are a part of the file and cannot be gathered; or QDQ.
    """
    if scheme.mode == "static" and scheme.format == "tflite":
        raise ConfigError(
            "--form rolled with static int8 activations: in TFLite a loop cannot change scales from trip to trip; "
            "choose --activations dynamic or float"
        )
    if asked == "qdq":
        raise ConfigError("int8: form qdq in a loop, which ONNX Runtime would run in float; legal: qoperator")
    return replace(scheme, form="qoperator", activations="uint8") if scheme.mode == "static" else scheme


def _infer_shapes(model: ir.Model) -> None:
    """Shapes that the passes have left out: a Loop declares those of what it carries."""
    from onnx_ir.passes.common import ShapeInferencePass

    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)


def _layers(run: Run) -> Rolled:
    """First unit's layer → the layers of all units."""
    found = {}
    for position, node in enumerate(run.unit(0)):
        if kernel_read(node) is not None:
            found[str(node.name)] = tuple(str(run.unit(index)[position].name) for index in range(run.count))
    return found


def _replace(model: ir.Model, run: Run, name: str) -> None:
    """The run's nodes → one Loop; those of the first unit go into its body."""
    graph, first, last = model.graph, run.unit(0), run.unit(run.count - 1)
    iteration = _value(f"{name}.i", ir.DataType.INT64, ir.Shape(()))
    condition = _value(f"{name}.go", ir.DataType.BOOL, ir.Shape(()))
    # Not run.carried: what a loop before this one made is that loop's output by now.
    initial = {slot: required(first[place[0]].inputs[place[1]]) for place, slot in run.handed.items()}
    carried = {
        slot: _value(f"{name}.x{number}", value.dtype, value.shape)
        for number, (slot, value) in enumerate(initial.items())
    }
    gathers = _gather(model, run, iteration)
    loop = ir.node(
        "Loop",
        [new_initializer(model, f"{name}.trips", np.array(run.count, np.int64)), None, *initial.values()],
        num_outputs=len(carried),
        name=name,
    )
    for slot, output in zip(carried, loop.outputs, strict=True):
        final = last[slot.position].outputs[slot.output]
        output.shape, output.type, output.name = final.shape, final.type, final.name
        final.replace_all_uses_with(output, replace_graph_outputs=True)
        final.name = f"{name}.{final.name}"
    for node in run.nodes[run.period :]:
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)
    graph.remove(run.nodes)
    for (position, index), slot in run.handed.items():
        first[position].replace_input_with(index, carried[slot])
    for (position, index), gather in gathers.items():
        first[position].replace_input_with(index, gather.outputs[0])
    go_on = ir.node("Identity", [condition], name="")
    go_on.outputs[0].name, go_on.outputs[0].dtype = f"{name}.goes", ir.DataType.BOOL
    go_on.outputs[0].shape = ir.Shape(())
    body = ir.Graph(
        [iteration, condition, *carried.values()],
        [go_on.outputs[0], *(first[slot.position].outputs[slot.output] for slot in carried)],
        nodes=[go_on, *dict.fromkeys(gathers.values()), *first],
        opset_imports=graph.opset_imports,
        name=name,
    )
    loop.attributes.add(ir.AttrGraph("body", body))
    graph.append(loop)
    graph.sort()


def _gather(model: ir.Model, run: Run, iteration: ir.Value) -> dict[tuple[int, int], ir.Node]:
    """(position, input) of the unit → Gather(stack of what the units read there, iteration)."""
    made: dict[tuple[ir.Value, ...], ir.Node] = {}
    found = {}
    for place in run.stacked:
        constants = tuple(run.constants(*place))
        if constants not in made:
            stack = new_initializer(model, f"{constants[0].name}.each", np.stack([array(v) for v in constants]))
            gather = ir.node("Gather", [stack, iteration], {"axis": 0}, name="")
            output = gather.outputs[0]
            output.name, output.dtype = f"{stack.name}.this", ir.DataType.from_numpy(array(constants[0]).dtype)
            output.shape = ir.Shape(array(constants[0]).shape)
            made[constants] = gather
        found[place] = made[constants]
    return found


def _value(name: str, dtype: ir.DataType | None, shape: ir.Shape | None) -> ir.Value:
    return ir.Value(name=name, type=None if dtype is None else ir.TensorType(dtype), shape=shape)
