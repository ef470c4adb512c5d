"""Approximations of activations within a tolerance, with proven bounds."""
