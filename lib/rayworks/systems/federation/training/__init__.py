"""Local training, and aggregation on the server."""
