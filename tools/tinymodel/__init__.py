"""The tiny model: a Llama of some 0.7 million parameters whose answers can be checked. See README.md."""
