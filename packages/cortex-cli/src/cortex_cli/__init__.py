"""`cortex`: one command group a file; main.py puts them together."""
