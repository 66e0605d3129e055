"""Ptychography: the complex object and the probe from overlapping diffraction frames, while they arrive."""
