"""What the records say: statistics, verdicts, tables, figures and the report.  Torch-free."""
