"""Measure a checkpoint with the engine itself, on the volumes' own grids."""
