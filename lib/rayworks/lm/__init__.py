"""Language models: checkpoints, vocabularies, the batched decoder and its engines, scoring, preference losses."""
