"""Print constraints that pin everything pyproject.toml names to the oldest version it allows, for `make test-oldest`.

    python scripts/lower_bounds.py > out/constraints-oldest.txt

Of the extra "dev" only what other extras name too is pinned: old test tools say nothing about the package.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
TOOLS = ("dev", "docs")
"""Extras for people who work on the package."""
_BOUND = re.compile(
    r"^(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*>=\s*(?P<version>[0-9][0-9A-Za-z.]*)(?P<rest>[^;]*)(?P<marker>;.*)?$"
)


def bounds(pyproject: Path = PYPROJECT) -> Iterator[str]:
    """One line for each requirement, "name==version; marker".

    Raises:
        SystemExit: a requirement has no lower bound.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    extras = {name: wanted for name, wanted in project["optional-dependencies"].items() if name not in TOOLS}
    for requirement in dict.fromkeys([*project["dependencies"], *(r for wanted in extras.values() for r in wanted)]):
        if requirement.startswith(project["name"] + "["):
            continue
        found = _BOUND.match(requirement)
        if found is None:
            raise SystemExit(f"{pyproject}: {requirement!r} has no lower bound; write NAME>=VERSION")
        yield f"{found['name']}=={found['version']}{found['marker'] or ''}"


if __name__ == "__main__":
    print("\n".join(bounds()))
