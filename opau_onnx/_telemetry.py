"""onnxruntime's telemetry, off unless the user decides otherwise.

Some of its builds (onnxruntime-gpu 1.31) store events in the user's cache folder and try to send them. The variable counts only
where it is set before onnxruntime is loaded.
"""

from __future__ import annotations

import os

VARIABLE = "ORT_DISABLE_TELEMETRY"


def disable() -> None:
    """Set ORT_DISABLE_TELEMETRY to 1 for this process and its children; a value that the user gave stays."""
    os.environ.setdefault(VARIABLE, "1")
