"""How ONNX Runtime's CPU provider would run a graph, and the RAM that takes."""
