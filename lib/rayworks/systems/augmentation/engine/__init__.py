"""Weights and soft labels of augmented samples: closed forms, losses, state, validation batches."""
