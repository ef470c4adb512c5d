"""Links from the pages to the repository's other files, which the site does not hold, become text; the file must exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by MkDocs for each page."""
    here = (REPOSITORY / "docs" / page.file.src_uri).parent

    def replaced(found: re.Match[str]) -> str:
        target = (here / found[2]).resolve()
        if target.is_relative_to(REPOSITORY / "docs"):
            return found[0]  # MkDocs checks it
        if not target.exists():
            raise FileNotFoundError(f"{page.file.src_uri}: {found[2]} is not in the repository")
        return f"{found[1]} (`{target.relative_to(REPOSITORY).as_posix()}`)"

    return _LINK.sub(replaced, markdown)
