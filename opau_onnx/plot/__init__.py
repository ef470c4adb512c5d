"""All learned activations of a model on one sheet."""
