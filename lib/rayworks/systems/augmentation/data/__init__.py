"""Samples with labels, some made wrong, split into what is trained on, trusted, selected by and tested on."""
