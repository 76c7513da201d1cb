"""Boxes against boxes: matching, curves and average precision. Knows no file, no model and no check."""
