"""Certificates: the compiled kernels against the oracle on every input that a dtype has."""
