"""Processes: the only package that starts them.  Torch-free."""
