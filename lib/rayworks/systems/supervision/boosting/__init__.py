"""Boosting of weak experts: weights of what is learned, weights of who votes, and whether it will help."""
