"""The dialects clients speak: their envelopes and their event streams."""
