"""Quantisation: calibration of activations."""
