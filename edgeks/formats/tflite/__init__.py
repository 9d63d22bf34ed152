"""TFLite: the graph lowered to NHWC operators, one buffer per kernel, and the interpreters that run it."""
