"""Networks from scenes to actions, the symmetries they respect, and playing with them."""
