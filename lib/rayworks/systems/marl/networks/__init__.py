"""Policy networks, the symmetries they respect, and acting with them."""
