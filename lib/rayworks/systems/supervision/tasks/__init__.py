"""Tasks: where examples come from, and which of them are hard."""
