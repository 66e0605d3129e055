"""Particle sets and runs looked at, joined, chosen from and checked, outside of any run."""
