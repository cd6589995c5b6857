"""HTTP. Inside this package imports of our own are relative, so that the word ``serve`` means ``ray.serve``."""
