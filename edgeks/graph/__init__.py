"""The graph: onnx_ir models in which a shared kernel is one ir.Value, and the passes over them."""
