"""Stage 5: findings and evidence become documents. Reads the run directory alone; knows nothing of the model."""

from __future__ import annotations

from xaiseg.reports.writing import Rendered, render

__all__ = ["Rendered", "render"]
