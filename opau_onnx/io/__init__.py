"""Files in and out: models, checkpoints, exported programs, samples, data sets, and atomic writes."""
