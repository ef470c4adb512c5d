"""Parts of scripts/compare.py: paper, figures, conclusions -> work, budget, inference -> store -> page, picture."""
