"""The physics that the engines share: CTF, Fourier conventions, masks, rotations, ring correlations."""
