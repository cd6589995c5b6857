"""Harmless prompts that a model refuses: found, judged, counted (PHTest, arXiv 2409.00598)."""
