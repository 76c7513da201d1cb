"""xaiseg audits image segmentation and detection models."""

__version__ = "0.1.0"
