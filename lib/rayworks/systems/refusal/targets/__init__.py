"""Models to try, the requests they are tried on, and what they say when they refuse."""
