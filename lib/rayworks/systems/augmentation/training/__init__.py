"""Training with and without the engine on the same rows, views and first weights."""
