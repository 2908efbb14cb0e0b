"""Tasks: where batches come from and how outputs are scored; one part a file."""
