"""Where a runtime would compute other numbers than a .tflite file says, without a word.

LiteRT 2.3 finds a packed kernel by the file's buffers of kernel and bias (of a hybrid layer: by the kernel's alone),
but packs more than those: the scales and the input's zero point of an int8 layer, the scales and the bias of a hybrid
one. A layer that shares the buffers and differs in the rest is served another layer's numbers, in silence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from edgeks.model_files.tflite_file import operator_code, tensor_name, whole_numbers

_OPS = schema.BuiltinOperator
_PACKED_OPS = (_OPS.CONV_2D, _OPS.DEPTHWISE_CONV_2D, _OPS.TRANSPOSE_CONV, _OPS.FULLY_CONNECTED)


def weight_cache_fault(model: schema.ModelT, *, integer_layers_only: bool = False) -> str | None:
    """The two layers that a weight cache would mix up, in words; None where it computes what the file says.

    `integer_layers_only`: those with integer activations, which no export may mix up: sharing their kernel's buffer is
    common, and sharing that of their bias as well is what turns a cache wrong.
    """
    packed: dict[tuple[int, ...], tuple[Hashable, str]] = {}
    for key, content, name, integer in _layers(model):
        if integer_layers_only and not integer:
            continue
        held, first = packed.setdefault(key, (content, name))
        if held != content:
            return f"{first!r} and {name!r} share the buffers of their kernel but not all that is packed with it"
    return None


def cached_copies(model: schema.ModelT) -> dict[int, int]:
    """Buffer of a kernel → packed copies of it that a weight cache holds: one per bias buffer, or one."""
    keys = {key for key, *_ in _layers(model)}
    return dict(Counter(key[0] for key in keys))


def hybrid_fault(model: schema.ModelT) -> str | None:
    """A FULLY_CONNECTED that quantises its input on the fly and has a scale per channel; None where there is none.

    tflite-runtime 2.14 gives zeros for it (tests/test_tflite_facts.py).
    """
    for graph in model.subgraphs:
        for operator in graph.operators or ():
            inputs = whole_numbers(operator.inputs)
            if operator_code(model, operator) != _OPS.FULLY_CONNECTED or len(inputs) < 2 or min(inputs[:2]) < 0:
                continue
            feed, kernel = (graph.tensors[index] for index in inputs[:2])
            hybrid = feed.type == schema.TensorType.FLOAT32 and kernel.type == schema.TensorType.INT8
            if hybrid and len(_numbers(kernel.quantization, "scale")) > 1:
                return f"{_output_name(graph, operator)!r} is a FULLY_CONNECTED on the fly with a scale per channel"
    return None


def _layers(model: schema.ModelT) -> Iterator[tuple[tuple[int, ...], Hashable, str, bool]]:
    """By what a layer's packed kernel is found, what is packed, the name of its output, whether its input is int8."""
    for graph in model.subgraphs:
        dequantised: dict[int, int] = {}
        for operator in graph.operators or ():
            code, inputs = operator_code(model, operator), whole_numbers(operator.inputs)
            if code == _OPS.DEQUANTIZE and inputs and whole_numbers(operator.outputs):
                dequantised[whole_numbers(operator.outputs)[0]] = inputs[0]
            if code == _OPS.TRANSPOSE_CONV and len(inputs) > 2:
                inputs = [inputs[2], inputs[1], *inputs[3:]]
            if code not in _PACKED_OPS or len(inputs) < 2 or min(inputs[:2]) < 0 or not whole_numbers(operator.outputs):
                continue
            feed, kernel = graph.tensors[inputs[0]], graph.tensors[dequantised.get(inputs[1], inputs[1])]
            bias = inputs[2] if len(inputs) > 2 and inputs[2] >= 0 else None
            bias_buffer = 0 if bias is None else int(graph.tensors[dequantised.get(bias, bias)].buffer)
            scales = _numbers(kernel.quantization, "scale")
            if scales and min(scales) <= 0:
                continue  # XNNPACK declines negative scales
            result = graph.tensors[whole_numbers(operator.outputs)[0]]
            name = _output_name(graph, operator)
            if not scales:  # a float kernel is packed with its bias only
                yield (int(kernel.buffer), bias_buffer), (), name, False
            elif feed.type != schema.TensorType.FLOAT32:
                activations = (
                    _numbers(feed.quantization, "scale"),
                    _numbers(feed.quantization, "zeroPoint"),
                    _numbers(result.quantization, "scale"),
                )
                yield (int(kernel.buffer), bias_buffer), (scales, activations), name, True
            elif inputs[1] in dequantised:
                yield (int(kernel.buffer), bias_buffer), scales, name, False
            else:
                added = model.buffers[bias_buffer].data
                yield (int(kernel.buffer),), (scales, b"" if added is None else bytes(added)), name, False


def _output_name(graph: schema.SubGraphT, operator: schema.OperatorT) -> str:
    outputs = whole_numbers(operator.outputs)
    return tensor_name(graph.tensors[outputs[0]]) if outputs and outputs[0] >= 0 else "?"


def _numbers(quantization: Any, field: str) -> tuple[float, ...]:
    values = None if quantization is None else getattr(quantization, field)
    return () if values is None else tuple(float(value) for value in values)
