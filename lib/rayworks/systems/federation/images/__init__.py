"""Images made from noise alone."""
