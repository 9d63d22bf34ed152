"""One function per operator of the graph: its docstring is its line in docs/tflite_ops.md."""
