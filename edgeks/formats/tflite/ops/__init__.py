"""One function per operator of the graph. Its docstring is its line in docs/tflite_ops.md.

It names the TFLite operators that it becomes, then what it takes. What it does not take is refused.
"""
