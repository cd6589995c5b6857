"""Auction-based regulation of the safety of models (arXiv 2410.01871)."""
