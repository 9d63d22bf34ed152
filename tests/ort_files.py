"""Files in ONNX Runtime's own format, as ONNX Runtime writes them."""

from pathlib import Path

import onnxruntime as ort


def save_ort(source: Path, path: Path, optimised: bool = False) -> Path:
    """.onnx → .ort, as it is or with all of the session's optimisations."""
    options = ort.SessionOptions()
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    return path
