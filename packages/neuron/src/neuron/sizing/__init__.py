"""What a model needs, and where it fits."""
