"""One Serve application per system."""
