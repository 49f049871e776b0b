"""Decisions as pure functions over immutable values: no clock, no I/O, no chance."""
