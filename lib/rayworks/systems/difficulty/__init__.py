"""Difficulty: item response theory and Glicko-2 ratings of benchmark items (Easy2Hard-Bench, arXiv 2409.18433)."""
