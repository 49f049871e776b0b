"""The neuron's endpoints, and the byte path to its engines."""
