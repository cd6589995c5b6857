"""Accountants, clipping, secure aggregation, attacks."""
