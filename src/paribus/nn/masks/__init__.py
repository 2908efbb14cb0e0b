"""Attention masks, one a file."""
