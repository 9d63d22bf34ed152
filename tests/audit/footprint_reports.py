"""Reports of schema edgeks.footprint/2 for the tests of the HTML page: of any size, with any names."""

from typing import Any

PARTS = ("mapped", "heap", "packed", "arena", "library")


def parts(*sizes: int) -> dict[str, int]:
    named = {f"{part}_bytes": size for part, size in zip(PARTS, sizes, strict=True)}
    return named | {"total_bytes": sum(sizes)}


def profile(name: str, description: str, copies: int, kernels: list[dict[str, Any]], measured: Any) -> dict[str, Any]:
    """A runtime that holds `copies` copies of each kernel; `measured`: its peak, or why there is none."""
    stored = sum(kernel["stored_bytes"] for kernel in kernels)
    loaded, run_peak = (parts(stored, 40_000, copies * stored, arena, 900_000) for arena in (0, 1_200_000))
    if isinstance(measured, float):
        peak = round(run_peak["total_bytes"] / measured)
        error = run_peak["total_bytes"] - peak
        sizes = {"baseline_bytes": 31_400_000, "load_peak_bytes": peak - 900_000, "loaded_bytes": peak - 1_250_000}
        measured = sizes | {"runtime_version": "1.31.0", "machine": "x86_64", "run_peak_bytes": peak}
        measured |= {"error_bytes": error, "error_ratio": error / peak}
    return {
        "profile": name,
        "description": description,
        "runtime": "onnxruntime",
        "session": {"threads": 1},
        "baseline_bytes": 31_000_000,
        "load_peak_bytes": loaded["total_bytes"] + 300_000,
        "loaded": loaded,
        "run_peak": run_peak,
        "kernels": [
            {
                "kernel": kernel["constant"],
                "layers": len(kernel["layers"]),
                "copies": copies * len(kernel["layers"]),
                "copy_bytes": kernel["stored_bytes"],
            }
            for kernel in kernels
        ],
        "notes": [f"{name}: one thread is assumed"],
        "measured": measured,
    }


def budget(resource: str, profile: str | None, needed: int, limit: int) -> dict[str, Any]:
    sizes = {"needed_bytes": needed, "budget_bytes": limit}
    return {"resource": resource, "profile": profile, **sizes, "fits": needed <= limit}


def report(layers: int = 60, kernels: int = 30, name: str = "stages.{}.conv", copies: int = 3) -> dict[str, Any]:
    """A network of `layers` convolutions that read `kernels` kernels, the first `copies` of them copies of one."""
    rows = []
    for index in range(layers):
        block = index * kernels // layers
        kernel = block if index % 3 else (block + index % 7) % kernels
        width = 16 << (3 * index // layers)
        rows.append(
            {
                "name": name.format(index),
                "op_type": "Conv",
                "output_shape": [1, width, 512 // width, 512 // width],
                "macs": 9 * width * 512 * 512 + index,
                "parameters": 9 * width * width,
                "kernel": f"{name.format(kernel)}.weight",
                "weight_bytes": 36 * width * width,
                "input_bytes": 1_048_576 // width,
                "output_bytes": 1_048_576 // width,
                "arithmetic_intensity": 4.5 + index / 7,
            }
        )
    stored = {row["kernel"]: row for row in rows}
    groups = []
    for kernel, row in stored.items():
        readers = [other["name"] for other in rows if other["kernel"] == kernel]
        if len(readers) > 1:
            size = row["weight_bytes"]
            group = {"constant": kernel, "dtype": "float32", "shape": [16, 16, 3, 3], "layers": readers}
            group |= {"runs": [1] * len(readers), "reads": len(readers)}
            groups.append(group | {"stored_bytes": size, "saved_bytes": (len(readers) - 1) * size})
    unique = sum(row["weight_bytes"] for row in stored.values())
    live = [400_000 + 17_000 * (index * index % 61) - 300 * (index // 9) for index in range(3 * layers)]
    ops = ("Conv", "BatchNormalization", "Relu")
    timeline = [
        {"node": f"{name.format(index // 3)}.{index % 3}", "op_type": ops[index % 3], "live_bytes": size}
        for index, size in enumerate(live)
    ]
    peak = max(timeline, key=lambda op: op["live_bytes"])
    alive = [
        {"name": f"y{part}", "made_by": name.format(part), "shape": [1, 16, 32, 32], "dtype": "float32", "bytes": size}
        for part, size in enumerate((peak["live_bytes"] // 2, peak["live_bytes"] // 4))
    ]
    total = sum(row["macs"] for row in rows)
    return {
        "schema": "edgeks.footprint/2",
        "file": "runs/net_fp32.onnx",
        "format": "onnx",
        "flash": {
            "file_bytes": unique + 130_000,
            "constant_bytes": unique + 60_000,
            "unique_bytes": unique,
            "graph_bytes": 58_000,
            "metadata_bytes": 12_000,
            "floor_bytes": unique + 9_000,
            "compressed_bytes": unique * 9 // 10,
            "compressed_is_estimate": True,
            "saved_bytes": sum(group["saved_bytes"] for group in groups),
            "kernels": len(stored),
            "layers": layers,
            "sharing_groups": sorted(groups, key=lambda group: -group["saved_bytes"]),
            "copies": [
                {
                    "kind": "scaled",
                    "constants": list(stored)[:copies],
                    "shape": [16, 16, 3, 3],
                    "wasted_bytes": (copies - 1) * 9216,
                }
            ][: copies > 1],
            "ops": [{"op_type": "Conv", "nodes": layers, "constants": len(stored), "stored_bytes": unique}],
        },
        "ram": [
            profile("rpi-zero-2w", "Raspberry Pi Zero 2 W, ONNX Runtime, BN stays a node", 0, groups, 1.031),
            profile("ort-default", "ONNX Runtime as it comes", 1, groups, 0.964),
            profile("ort-no-prepacking", "ONNX Runtime, no packed kernels", 0, groups, None),
            profile("tflite-runtime", "tflite-runtime 2.14", 1, groups, {"failed": "tflite-runtime is not installed"}),
        ],
        "activations": {
            "peak_bytes": peak["live_bytes"],
            "node": peak["node"],
            "op_type": peak["op_type"],
            "alive": alive,
            "notes": ["the batch is symbolic: taken as 1"],
            "timeline": timeline,
        },
        "suggestions": [
            {"kind": "in_place", "text": f"let {peak['node']} work in place", "saved_bytes": 262_144},
            {"kind": "profile", "text": "run it as ort-no-prepacking: no copy is packed", "saved_bytes": 180_000},
        ],
        "compute": {
            "macs": total,
            "gflops": 2 * total / 1e9,
            "parameters": unique // 4,
            "parameters_unshared": sum(row["parameters"] for row in rows),
            "weight_bytes_read": sum(row["weight_bytes"] for row in rows),
            "notes": ["BatchNormalization is not counted"],
            "layers": rows,
            "latency_bound_ms": 12.4,
        },
        "target": "rpi-zero-2w",
        "budgets": [budget("flash", None, 400_000, 16_000_000), budget("ram", "rpi-zero-2w", 6_100_000, 64_000_000)],
        "fits": True,
        "diff": None,
    }


def bare() -> dict[str, Any]:
    """What is known of a file when little is: no compute, no timeline, no target, and sizes that are null."""
    whole = report(layers=2, kernels=2, copies=0)
    flash = whole["flash"] | {"floor_bytes": None, "compressed_bytes": None, "metadata_bytes": None}
    activations = {"peak_bytes": None, "node": None, "op_type": None, "alive": [], "notes": [], "timeline": []}
    nothing = {"ram": [], "suggestions": [], "compute": None, "target": None, "budgets": [], "fits": None}
    return whole | nothing | {"flash": flash, "activations": activations}
