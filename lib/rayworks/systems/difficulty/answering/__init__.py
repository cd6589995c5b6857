"""Models that answer benchmark items: prompts, scorers, and what their answers say about difficulty."""
