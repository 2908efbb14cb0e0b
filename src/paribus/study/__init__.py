"""What is asked: factors, expansion, fairness, the plan, hypotheses.  Torch-free."""
