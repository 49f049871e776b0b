"""What is decided and done: the fleet's picture, who waits, who holds a lease, which swaps run."""
