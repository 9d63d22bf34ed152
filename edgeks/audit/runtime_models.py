"""The rules by which RAM is predicted, one row each: what a runtime does, and the test that measures it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """`says`: the rule in words. `test`: the test, in tests/, that holds it against a measurement."""

    name: str
    runtime: str
    says: str
    test: str


_ORT = "audit/test_onnxruntime_ram.py::"

ONNXRUNTIME_RULES: tuple[Rule, ...] = (
    Rule(
        "folding copies kernels",
        "onnxruntime",
        "BatchNormalization (or a constant Mul or Add) after a Conv is folded into a kernel of that node's own, unless "
        "ConvBNFusion, ConvMulFusion and ConvAddFusion are disabled: a kernel that L layers share is held L times.",
        f"{_ORT}test_default_holds_a_copy_per_layer_and_unfolded_one",
    ),
    Rule(
        "int8 packing",
        "onnxruntime",
        "QLinearConv packs s8 weights with zero point 0 for each node; with another zero point, or u8 weights, nodes "
        "share one packed copy. The original goes; session.disable_prepacking keeps it and packs nothing.",
        f"{_ORT}test_a_kernel_with_zero_point_0_is_packed_for_every_node",
    ),
    Rule(
        "external data",
        "onnxruntime",
        "Kernels in external data are mapped, but one that is folded, blocked or packed is a copy like any other.",
        f"{_ORT}test_kernels_in_external_data_are_copied_too",
    ),
    Rule(
        "arena",
        "onnxruntime",
        "The arena doubles its regions and keeps them; the first inference allocates tensor by tensor and every later "
        "one a planned block, and the pages that either wrote stay. A table of 1/32 of each region comes on top.",
        f"{_ORT}test_peak_is_within_a_tenth_or_a_megabyte",
    ),
    Rule(
        "runtime",
        "onnxruntime",
        "A session takes 1.9 MB and 5.3 kB for every node of the file, 7.6 MB of the runtime's code is read, and the "
        "first inference adds 1.1 MB.",
        f"{_ORT}test_peak_is_within_a_tenth_or_a_megabyte",
    ),
)

RULES: tuple[Rule, ...] = (*ONNXRUNTIME_RULES,)
