"""Explanations of predictions: targets, one session an image, and one function a method."""
