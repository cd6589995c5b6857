"""A gate for the CI of a model: paired tests against a baseline."""
