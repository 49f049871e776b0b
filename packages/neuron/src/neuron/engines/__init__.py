"""What computes: the real engine (vllm) and the simulated one (sim)."""
