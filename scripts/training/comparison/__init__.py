"""What scripts/compare.py is made of: paper, figures, conclusions -> work, budget, inference -> store -> page, picture."""
