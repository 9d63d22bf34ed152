"""Files that anybody may have made, read with every claim checked first and nothing executed: .onnx, .ort, .tflite."""
