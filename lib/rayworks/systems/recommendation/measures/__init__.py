"""Metrics with intervals, calibration, and audits of a log."""
