"""Requirements of a Linux library on the system that loads it, read from its ELF sections."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from opau_onnx.errors import LibraryError

_MACHINES = {62: "x86_64", 183: "aarch64"}
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_DYNAMIC = struct.Struct("<qQ")
_NEEDED_VERSIONS = struct.Struct("<HHIII")
_NEEDED_VERSION = struct.Struct("<IHHII")
_DYNAMIC_SECTION, _VERSIONS_SECTION, _NEEDED = 6, 0x6FFFFFFE, 1


@dataclass(frozen=True)
class Elf:
    """Contents of the file.

    Attributes:
        machine: as ``platform.machine()`` names it on Linux, e.g. "x86_64".
        needed: names of the libraries that are loaded with it.
        versions: the newest version of each family of symbols that it needs, e.g. {"GLIBC": "2.35"}.
    """

    machine: str
    needed: tuple[str, ...]
    versions: dict[str, str]


@dataclass(frozen=True)
class _Section:
    kind: int
    content: bytes
    strings: int
    entries: int


def read(path: Path) -> Elf:
    """Read a library.

    Raises:
        LibraryError: it is not a 64-bit little-endian ELF file, or a broken one.
        OSError: it cannot be read.
    """
    content = path.read_bytes()
    if content[:6] != b"\x7fELF\x02\x01":
        raise LibraryError(f"{path} is not a 64-bit little-endian ELF file, that is, no library of Linux")
    try:
        machine = _HEADER.unpack_from(content)[2]
        sections = _sections(content)
        needed = [name for part in sections if part.kind == _DYNAMIC_SECTION for name in _libraries(part, sections)]
        names = [name for part in sections if part.kind == _VERSIONS_SECTION for name in _versions(part, sections)]
    except (struct.error, IndexError, ValueError) as error:
        raise LibraryError(f"{path} is a broken ELF file: {error}") from None
    return Elf(_MACHINES.get(machine, f"ELF machine {machine}"), tuple(needed), newest(names))


def newest(names: list[str]) -> dict[str, str]:
    """The largest version of each family, of names such as "GLIBC_2.35"."""
    found: dict[str, str] = {}
    for name in names:
        family, _, version = name.rpartition("_")
        if family and version_key(version) > version_key(found.get(family, "")):
            found[family] = version
    return dict(sorted(found.items()))


def version_key(version: str) -> tuple[int, ...]:
    """Sort key of versions: "2.4" comes before "2.35", and what holds no numbers before all."""
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _sections(content: bytes) -> list[_Section]:
    header = _HEADER.unpack_from(content)
    start, size, count = header[6], header[11], header[12]
    found = []
    for i in range(count):
        _, kind, _, _, offset, length, strings, entries, _, _ = _SECTION.unpack_from(content, start + i * size)
        found.append(_Section(kind, content[offset : offset + length], strings, entries))
    return found


def _libraries(section: _Section, sections: list[_Section]) -> Iterator[str]:
    for tag, value in _DYNAMIC.iter_unpack(section.content):
        if tag == _NEEDED:
            yield _string(sections[section.strings].content, value)


def _versions(section: _Section, sections: list[_Section]) -> Iterator[str]:
    strings, position = sections[section.strings].content, 0
    for _ in range(section.entries):
        _, count, _, first, following = _NEEDED_VERSIONS.unpack_from(section.content, position)
        entry = position + first
        for _ in range(count):
            _, _, _, name, step = _NEEDED_VERSION.unpack_from(section.content, entry)
            yield _string(strings, name)
            entry += step
        position += following


def _string(strings: bytes, start: int) -> str:
    return strings[start : strings.index(b"\0", start)].decode("ascii")
