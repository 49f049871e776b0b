"""Benchmarks: cortex beside its peers, in one run and in rounds, so that ratios mean something on any machine."""
