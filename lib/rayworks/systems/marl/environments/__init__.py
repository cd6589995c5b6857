"""Vectorised environments: scenes, particle worlds, battles, and adapters to mpe2, SMACv2 and PettingZoo."""
