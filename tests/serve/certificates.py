"""Keys and certificates for tests of TLS, made by the openssl command when they are needed."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Pair:
    """PEM files: a key, and a certificate for localhost that it has signed itself."""

    key: Path
    cert: Path


def pair(folder: Path, name: str, password: str = "") -> Pair:
    """A new one; its key is encrypted where there is a password. Skips the test where there is no openssl."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl command to make certificates with")
    made = Pair(folder / f"{name}.key", folder / f"{name}.pem")
    hidden = ["-passout", f"pass:{password}"] if password else ["-nodes"]
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "2", *hidden]
    command += ["-keyout", str(made.key), "-out", str(made.cert), "-subj", f"/CN={name}"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return made
