"""Parts of scripts/train.py and scripts/compare.py.

datasets -> pixels -> coefficients -> recipes -> precision -> loop -> state, report, curves -> run -> comparison: a module
imports only from those before it. These are scripts, not a part of the installed package.
"""

from __future__ import annotations

from opau_onnx.errors import OpauError


class TrainingError(OpauError):
    """Options that do not fit each other, or a run that cannot be continued as asked."""
