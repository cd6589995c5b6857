"""Environments of many copies stepped at once: scenes, particle worlds, battles, and adapters to what others built."""
