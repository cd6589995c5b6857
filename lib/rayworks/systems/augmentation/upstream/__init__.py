"""Augmentations whose views the engine weighs: of images, tables and texts, each with its source, operation and strength."""
