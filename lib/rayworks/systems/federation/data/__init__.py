"""Examples, their partition among clients, and mixups of them."""
