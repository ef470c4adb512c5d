"""Comparison of runtimes: tensors, tolerances, input grids, references and the runtimes themselves."""
