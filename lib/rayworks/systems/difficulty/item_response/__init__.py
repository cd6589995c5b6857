"""Item response models: curves, estimation, standard errors, abilities, diagnostics."""
