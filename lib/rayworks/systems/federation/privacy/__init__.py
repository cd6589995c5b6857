"""Privacy accountants, clipping, secure aggregation, attacks."""
