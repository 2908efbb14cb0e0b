"""Corpora and tokenizers: bytes of text in, packed ids out.  Nothing here loads torch."""
