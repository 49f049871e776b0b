"""This host's devices: what they are, and who owns each."""
