"""What a .tflite file says, and how TFLite would plan and run it."""
