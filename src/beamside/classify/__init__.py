"""One engine: 2D classification of cryo-EM particles by polar-Fourier maximum likelihood."""
