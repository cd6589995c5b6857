"""Where examples come from, which of them are hard, and who may see which labels."""
