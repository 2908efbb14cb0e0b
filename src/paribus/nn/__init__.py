"""What is trained: the Transformer and the parts that plug into it."""
