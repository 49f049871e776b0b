"""Dialects onto chat completions and back: request, response and stream, as pure functions without memory.

What must survive between two turns of a conversation travels with the client (`opaque`).
"""
