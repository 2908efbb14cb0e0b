"""What mixes tokens in the place of attention, one a file."""
