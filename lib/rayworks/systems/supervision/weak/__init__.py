"""Weak experts: what they see of a text, and how they learn."""
