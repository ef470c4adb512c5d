"""The definition of the activation, its evaluation, gradients, fits and oracle. Needs the standard library and numpy only."""
