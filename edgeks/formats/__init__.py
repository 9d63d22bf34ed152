"""File formats: graph in, file out."""
