"""Students: the stronger models, which learn from what weak experts say."""
