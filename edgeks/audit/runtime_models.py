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


RULES: tuple[Rule, ...] = (
    Rule(
        "tflite-arena",
        "litert",
        "Activations lie in one arena per graph, where TFLite's planner puts them: tensors that live all "
        "the time first, then the largest, each in the smallest gap, at multiples of 64 bytes.",
        "tests/audit/tflite/test_tflite_arena.py::test_random_graphs_lie_where_the_plan_says",
    ),
    Rule(
        "tflite-loop-arenas",
        "litert",
        "The graphs that WHILE and IF run have arenas of their own; what a body reads from outside has no room there.",
        "tests/audit/tflite/test_tflite_arena.py::test_a_while_has_arenas_of_its_own",
    ),
    Rule(
        "tflite-im2col",
        "litert",
        "Built-in kernels unroll the input of every convolution other than 1x1 with stride 1 (im2col) in the arena; "
        "with several threads a float one without dilation keeps a transposed copy of its kernel instead.",
        "tests/audit/tflite/test_tflite_arena.py::test_threads_move_float_convolutions_to_eigen",
    ),
    Rule(
        "tflite-dequantised-kernels",
        "litert",
        "A kernel stored as int8 for a float operator is dequantised once, into memory that stays.",
        "tests/audit/tflite/test_tflite_arena.py::test_a_kernel_stored_as_int8_for_a_float_operator_is_dequantised_into_the_persistent_arena",
    ),
    Rule(
        "litert-mapped-file",
        "litert",
        "The file is mapped; once it has run, every page of it that an operator reads is resident.",
        "tests/audit/tflite/test_litert_ram.py::test_parts_are_as_measured",
    ),
    Rule(
        "litert-kernels-in-place",
        "litert",
        "Built-in and reference kernels read the kernels in the mapped file: no copy, however many layers read one.",
        "tests/audit/tflite/test_litert_ram.py::test_kernels_read_in_place_have_no_copies",
    ),
    Rule(
        "ruy-packs-products",
        "litert",
        "Integer products of built-in kernels (on arm64 float ones, too) pack both operands in a block that grows to "
        "the largest product and stays.",
        "tests/audit/tflite/test_litert_ram.py::test_parts_are_as_measured",
    ),
    Rule(
        "gemmlowp-packs-blocks",
        "tflite-runtime",
        "On arm64 tflite-runtime 2.14 multiplies int8 matrices in gemmlowp, which packs blocks for a cache of 384 kB "
        "instead of whole operands.",
        "tests/audit/tflite/test_litert_ram_arm64.py::test_parts_are_as_measured_on_arm64",
    ),
    Rule(
        "tflite-runtime-int8",
        "tflite-runtime",
        "tflite-runtime 2.14 leaves int8 operators to the built-in kernels; each int8 convolution clears room for two "
        "of its kernels while it runs.",
        "tests/audit/tflite/test_litert_ram.py::test_tflite_runtime_is_as_measured",
    ),
    Rule(
        "xnnpack-operators",
        "litert, tflite-runtime",
        "XNNPACK takes the operators, types and forms in edgeks/audit/xnnpack/operators.py; the others run on the "
        "built-in kernels, and cut what it takes into pieces. tflite-runtime 2.14 gives it float32 only.",
        "tests/audit/xnnpack/test_xnnpack_operators.py::test_the_delegate_takes_what_it_is_said_to_take",
    ),
    Rule(
        "xnnpack-packing",
        "litert, tflite-runtime",
        "Every operator that XNNPACK takes holds a packed copy of its kernel, with bias and scales, rounded up to the "
        "tiles of its matrix kernels. Layers that share a kernel hold a copy each.",
        "tests/audit/xnnpack/test_xnnpack.py::test_allocations_are_as_measured",
    ),
    Rule(
        "xnnpack-weight-cache",
        "litert-compiled",
        "With a warm weight cache packed kernels are pages of the cache's file, one per pair of kernel and bias "
        "buffers (one per kernel where inputs are quantised on the fly), read when it runs; the file's own kernels "
        "are not read. LiteRT's CompiledModel takes 1.6 MB and 7.1 MB of its code.",
        "tests/audit/tflite/test_weight_cache_ram.py::test_the_cached_form_is_as_measured",
    ),
    Rule(
        "xnnpack-large-depthwise",
        "litert, tflite-runtime",
        "A depthwise kernel of more than 25 taps is packed as one matrix per channel, padded to a tile of output "
        "channels: 16 times its size with AVX-512.",
        "tests/audit/xnnpack/test_xnnpack.py::test_a_large_depthwise_kernel_is_padded_to_a_tile_per_channel",
    ),
    Rule(
        "xnnpack-tables",
        "litert, tflite-runtime",
        "A convolution other than 1×1 holds a table of pointers, 8 bytes per tap and pixel of its output (depthwise: "
        "less, where neighbours share columns). Poolings and resizing hold such tables too.",
        "tests/audit/xnnpack/test_xnnpack.py::test_allocations_are_as_measured",
    ),
    Rule(
        "xnnpack-workspace",
        "litert, tflite-runtime",
        "Values between the operators of a piece lie in one workspace, the largest first, each in the smallest gap "
        "that is free while it lives; elementwise operators write over their input. All pieces share it. Inputs and "
        "outputs of a piece lie in TFLite's arena.",
        "tests/audit/xnnpack/test_xnnpack.py::test_allocations_are_as_measured",
    ),
    Rule(
        "xnnpack-dequantised",
        "litert, tflite-runtime",
        "Constants behind DEQUANTIZE become float32 on the heap when the delegate is made, and are packed from there; "
        "LiteRT packs a float16 kernel without that.",
        "tests/audit/xnnpack/test_xnnpack.py::test_allocations_are_as_measured",
    ),
    Rule(
        "ort-folding",
        "onnxruntime",
        "BatchNormalization (or Mul by a constant of a channel each) after a Conv is folded into a kernel of that "
        "node's own, unless ConvBNFusion and ConvMulFusion are disabled: a kernel that L layers share is held L times. "
        "An Add changes the bias only.",
        "tests/audit/onnxruntime/test_onnxruntime_ram.py::test_default_holds_a_copy_per_layer_and_unfolded_one",
    ),
    Rule(
        "ort-int8-packing",
        "onnxruntime",
        "QLinearConv packs s8 weights with zero point 0 for each node, where it reads a multiple of 4 channels and "
        "writes a multiple of 16 (depthwise: a multiple of 16); on arm64 where it has several taps and reads and "
        "writes multiples of 8 channels, at least 64 (depthwise: a multiple of 8), and everywhere if activations are "
        "s8. Other nodes, with another zero point or u8 weights as well, share one packed copy, but each packs one and "
        "gives it back. The original goes; session.disable_prepacking keeps it and packs nothing.",
        "tests/audit/onnxruntime/test_onnxruntime_ram.py::test_a_kernel_with_zero_point_0_is_packed_for_every_node",
    ),
    Rule(
        "ort-loops",
        "onnxruntime",
        "A kernel that a Loop's body reads from the graph around it is held once for all trips. A float one stays as "
        "it is, out of blocks, unless what follows folds constants into it; a QLinearConv whose bias or zero points "
        "the body gathers shares its packed copy with every other such node, and is laid out in a temporary first. A "
        "trip holds what the one before left, and the last one's result is copied.",
        "tests/audit/onnxruntime/test_loop_ram.py::test_ram_of_a_loop_is_as_measured",
    ),
    Rule(
        "ort-integer-average-pool",
        "onnxruntime",
        "An average pool in integers takes a float copy of its input while it runs.",
        "tests/audit/onnxruntime/test_onnxruntime_ram.py::test_an_integer_average_pool_takes_a_float_copy",
    ),
    Rule(
        "ort-external-data",
        "onnxruntime",
        "Kernels in external data are mapped, but one that is folded, blocked or packed is a copy like any other.",
        "tests/audit/onnxruntime/test_onnxruntime_ram.py::test_kernels_in_external_data_are_copied_too",
    ),
    Rule(
        "ort-arena",
        "onnxruntime",
        "The arena doubles its regions and keeps them; the first inference allocates tensor by tensor and every later "
        "one a planned block, and the pages that either wrote stay. Without memory pattern there is no such block. A "
        "table of 1/32 of each region comes on top.",
        "tests/audit/onnxruntime/test_onnxruntime_ram.py::test_peak_is_within_a_tenth_or_a_megabyte",
    ),
    Rule(
        "ort-no-arena",
        "onnxruntime",
        "Without an arena activations are blocks of the C library's heap: after an inference they are gone, but holes "
        "between them raise the peak, at times to several times as much, differently in each process.",
        "tests/audit/onnxruntime/test_onnxruntime_ram.py::test_without_an_arena_activations_go_and_the_peak_is_a_lower_bound",
    ),
    Rule(
        "ort-prepared",
        "onnxruntime",
        "A file that ONNX Runtime saved as it optimised it runs as it is: its constants are mapped when it is opened, "
        "and read by the first inference; only packed ones are copies.",
        "tests/test_prepare_onnx.py::test_constants_are_mapped_and_ram_is_as_predicted",
    ),
    Rule(
        "ort-whole-blocks",
        "onnxruntime",
        "Tensors in channel blocks hold whole blocks: 16 channels with AVX-512, so that 24 channels take the room of "
        "32. Poolings stay out of blocks where the width is no multiple of 16.",
        "tests/audit/onnxruntime/test_onnxruntime_ram.py::test_channels_are_rounded_up_to_blocks",
    ),
    Rule(
        "ort-float16",
        "onnxruntime",
        "On x86-64 a float16 network is computed in float32: kernels and activations take twice what the file says.",
        "tests/audit/onnxruntime/test_onnxruntime_ram.py::test_float16_is_computed_as_float32",
    ),
    Rule(
        "ort-s8-activations",
        "onnxruntime",
        "On x86-64 s8 activations that one operator reads become u8; those that several read stay s8, and the "
        "convolutions and additions at them run in float, their kernels dequantised at each inference.",
        "tests/audit/onnxruntime/test_onnxruntime_ram.py::test_s8_activations_that_two_read_stay_float",
    ),
    Rule(
        "ort-format",
        "onnxruntime",
        "An .ort file runs as it was saved, whatever the session asks for; while it is opened it is read whole.",
        "tests/audit/onnxruntime/test_onnxruntime_ram.py::test_an_ort_file_runs_as_it_was_saved",
    ),
    Rule(
        "ort-load-peak",
        "onnxruntime",
        "At load each constant is read and then copied; folding makes a kernel beside its original with two "
        "temporaries, layout in blocks with three, and originals go when all kernels are through. Temporaries leave "
        "holes in glibc's heap that kernels of the same size do not fit in, so that layers sharing one kernel peak "
        "at four copies each.",
        "tests/audit/onnxruntime/test_loading.py::test_load_peak_is_as_measured",
    ),
    Rule(
        "ort-library",
        "onnxruntime",
        "A session takes 1.9 MB and 5.3 kB for every node of the file; 7.6 MB of the runtime's code is read, and 55 kB "
        "for every type of op; the first inference adds 1.1 MB, and 20 kB for every type of op. On arm64 a session "
        "takes 1.75 MB, and 7.2 MB of code.",
        "tests/audit/onnxruntime/test_onnxruntime_ram.py::test_peak_is_within_a_tenth_or_a_megabyte",
    ),
)
