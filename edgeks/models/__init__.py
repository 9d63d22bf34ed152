"""The model zoo: architectures that share kernels between layers."""
