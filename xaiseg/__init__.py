"""xaiseg audits image segmentation and detection models.

>>> import xaiseg
>>> sorted(name for name in xaiseg.__all__ if name != "__version__")
['Audit', 'audit', 'evaluate', 'explain']
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Audit", "__version__", "audit", "evaluate", "explain"]

if TYPE_CHECKING:
    from xaiseg.evaluating import evaluate
    from xaiseg.explaining import explain
    from xaiseg.pipeline import Audit, audit


def __getattr__(name: str) -> Any:
    # Imported when asked for, so that `xaiseg --help` does not wait for torch.
    if name in ("Audit", "audit"):
        from xaiseg import pipeline

        return getattr(pipeline, name)
    if name == "explain":
        from xaiseg import explaining

        return explaining.explain
    if name == "evaluate":
        from xaiseg import evaluating

        return evaluating.evaluate
    raise AttributeError(f"module 'xaiseg' has no attribute {name!r}")
