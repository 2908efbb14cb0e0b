"""Factors of attention logits, one a file."""
