"""What LiteRT's XNNPACK delegate takes of a .tflite file, and what it allocates."""
