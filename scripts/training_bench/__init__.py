"""What `scripts/bench_training.py` measures."""
