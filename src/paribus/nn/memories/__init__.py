"""What is carried from one segment of a row to the next, one kind a file."""
