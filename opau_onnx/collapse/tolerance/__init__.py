"""Within a tolerance: cheaper functions than the exact one, each with a proven bound on the range that real data reaches."""
