"""The two commands of tools/run.py. Standard library only."""
