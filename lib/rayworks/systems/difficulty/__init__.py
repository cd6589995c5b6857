"""Difficulty of benchmark items, from responses and games, with honest uncertainty (Easy2Hard-Bench, arXiv 2409.18433)."""
