"""One pass for each form of a collapsed model."""
