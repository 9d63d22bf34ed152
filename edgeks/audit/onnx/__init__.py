"""What the graph of an ONNX file says: kernels and who reads them, shapes, live activations, compute, proof."""
