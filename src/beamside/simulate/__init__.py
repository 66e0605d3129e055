"""Instruments that make data with a known truth."""
