"""The neuron: the daemon of one GPU host, the truth about its devices and replicas."""
