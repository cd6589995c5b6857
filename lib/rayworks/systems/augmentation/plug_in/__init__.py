"""The engine in the training loop that people have: PyTorch, Lightning, transformers, Ray Data."""
