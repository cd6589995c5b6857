"""One file per question asked; ``python -m benchmarks.run`` answers all of them."""
