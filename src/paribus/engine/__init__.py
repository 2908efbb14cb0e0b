"""Training, evaluation, stacking, checkpoints."""
