"""Difficulty labels: one form, and the ways to make them."""
