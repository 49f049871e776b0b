"""The gateway: turns neurons into one inference service."""
