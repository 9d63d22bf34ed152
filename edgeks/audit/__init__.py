"""What an artefact holds and needs, measured on the written file: kernels, flash bytes, activations, budgets."""
