"""One corpus a file."""
