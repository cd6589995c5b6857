"""Examples, which client holds which, and mixtures of them."""
