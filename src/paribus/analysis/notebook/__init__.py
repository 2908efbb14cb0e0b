"""The notebook: what happened in a home, day by day, made from the records and nothing else."""
