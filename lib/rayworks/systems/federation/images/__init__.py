"""Images generated from noise alone."""
