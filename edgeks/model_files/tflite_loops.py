"""The loops of a .tflite file: how often the graph that a WHILE runs is run, and by what it counts."""

from __future__ import annotations

from dataclasses import dataclass

from ai_edge_litert import schema_py_generated as schema

from edgeks.model_files.tflite_file import OPERATOR_NAMES, constant, operator_code, whole_numbers


@dataclass(frozen=True, slots=True)
class LoopBody:
    """`trips`: how often the graph runs in one inference, None where that is not in the file. `counter`: its tensor
    that holds 0, 1, 2 …, -1 for one that counts otherwise."""

    trips: int | None
    counter: int


def while_trips(model: schema.ModelT, graph: schema.SubGraphT, operator: schema.OperatorT) -> int | None:
    """How often the body of a WHILE of `graph` runs; None where that is not in the file.

    (limit − start) / step of a counter that is compared with a constant, and that the body adds a constant to.
    """
    found = _counter(model, operator)
    if found is None:
        return None
    counter, limit, step = found
    start = _number(model, graph, int(operator.inputs[counter]))
    return None if start is None else max(0, -(-(limit - start) // step))


def loop_bodies(model: schema.ModelT) -> dict[int, LoopBody]:
    """Number of a graph that a WHILE runs as its body → how. One that several operators run, or a loop inside a loop,
    runs an unknown number of times."""
    found: dict[int, LoopBody] = {}
    for number, graph in enumerate(model.subgraphs):
        for operator in graph.operators or []:
            if _name(model, operator) == "WHILE" and operator.builtinOptions is not None:
                body = int(operator.builtinOptions.bodySubgraphIndex)
                known = number == 0 and body not in found
                found[body] = _loop_body(model, graph, operator) if known else LoopBody(None, -1)
    return found


def _loop_body(model: schema.ModelT, graph: schema.SubGraphT, operator: schema.OperatorT) -> LoopBody:
    counter = _counter(model, operator)
    if counter is None:
        return LoopBody(None, -1)
    position, _, step = counter
    start = _number(model, graph, int(operator.inputs[position]))
    inputs = model.subgraphs[operator.builtinOptions.bodySubgraphIndex].inputs
    return LoopBody(while_trips(model, graph, operator), int(inputs[position]) if (start, step) == (0, 1) else -1)


def _counter(model: schema.ModelT, operator: schema.OperatorT) -> tuple[int, int, int] | None:
    """Position of the counter among what is carried, the limit that it stays below, and its step."""
    options, count = operator.builtinOptions, len(model.subgraphs)
    if not (0 <= options.condSubgraphIndex < count and 0 <= options.bodySubgraphIndex < count):
        return None
    condition, body = model.subgraphs[options.condSubgraphIndex], model.subgraphs[options.bodySubgraphIndex]
    compared = _maker(model, condition, whole_numbers(condition.outputs)[:1])
    if compared is None or _name(model, compared) not in ("LESS", "LESS_EQUAL"):
        return None
    counter, limit = _state_and_number(model, condition, compared)
    if counter is None or limit is None or counter >= min(len(body.inputs), len(body.outputs), len(operator.inputs)):
        return None
    step_by = _maker(model, body, [int(body.outputs[counter])])
    if step_by is None or _name(model, step_by) != "ADD":
        return None
    stepped, step = _state_and_number(model, body, step_by)
    if stepped != counter or step is None or step <= 0:
        return None
    return counter, limit + (_name(model, compared) == "LESS_EQUAL"), step


def _state_and_number(
    model: schema.ModelT, graph: schema.SubGraphT, operator: schema.OperatorT
) -> tuple[int | None, int | None]:
    """Of `state < number` and `state + number`: which input of the graph, and the number."""
    states = whole_numbers(graph.inputs)
    operands = whole_numbers(operator.inputs)
    if _name(model, operator) == "ADD" and operands and operands[0] not in states:
        operands.reverse()
    if len(operands) != 2 or operands[0] not in states:
        return None, None
    return states.index(operands[0]), _number(model, graph, operands[1])


def _maker(model: schema.ModelT, graph: schema.SubGraphT, made: list[int]) -> schema.OperatorT | None:
    found = [operator for operator in graph.operators or [] if made and made[0] in whole_numbers(operator.outputs)]
    return found[0] if found else None


def _number(model: schema.ModelT, graph: schema.SubGraphT, index: int) -> int | None:
    """A whole constant of one element."""
    content = constant(model, graph.tensors[index]) if index >= 0 else None
    return (
        int(content.reshape(-1)[0])
        if content is not None and content.size == 1 and content.dtype.kind in "iu"
        else None
    )


def _name(model: schema.ModelT, operator: schema.OperatorT) -> str:
    return OPERATOR_NAMES.get(operator_code(model, operator), "")
