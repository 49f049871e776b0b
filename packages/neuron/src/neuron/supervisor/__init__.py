"""The sole owner of the replicas: what is loaded, what becomes of it, what is told of it."""
