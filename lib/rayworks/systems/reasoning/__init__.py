"""Tree search with language models, and learning from its trees."""
