"""Weak experts of classes."""
