"""Docstrings name things by Sphinx's roles, which Markdown does not know: they become code."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:func|class|meth|mod|data|attr|exc|py:\w+):`~?([^`]+)`")


class Roles(griffe.Extension):
    """Rewrite the roles of each docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(r"`\1`", obj.docstring.value).replace("``", "`")
