"""Scalings of RoPE's frequencies for rows longer than those trained on, one a file."""
