"""Figures for people, drawn with matplotlib from plain numbers: no torch, no state, one figure per file."""
