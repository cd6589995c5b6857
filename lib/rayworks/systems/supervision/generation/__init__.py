"""Answers that are texts: tokens as units, ensembles that decode, students of texts."""
