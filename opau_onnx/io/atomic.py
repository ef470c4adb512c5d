"""Writing files so that nothing half-written stays behind."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from opau_onnx.core.reports import plain


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; rename it to ``path`` at the end, remove it after an error.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private; give what the user's umask would.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_json(path: Path, record: Any) -> None:
    """Write a report: what :func:`opau_onnx.core.reports.plain` makes of a record. The file appears whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(plain(record), indent=2, allow_nan=False) + "\n", encoding="utf-8")
