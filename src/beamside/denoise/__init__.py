"""Denoising of micrographs: learned from pairs with independent noise, and proved on data held out."""
