"""Models of acceptance and of the next item: backbones, training, and RecBole checkpoints."""
