"""Causes of acceptance: do-recursion, attribution, effects."""
