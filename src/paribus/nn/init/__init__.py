"""Initialisation schemes, one a file."""
