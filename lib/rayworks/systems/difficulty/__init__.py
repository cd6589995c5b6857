"""Difficulty of benchmark items from evidence: item response theory, Glicko-2, Easy2Hard-Bench."""
