"""Harmless prompts that a model refuses, written token by token."""
