"""`neuron-setup`: gives a neuron its engine, in an environment of its own that is built beside the one in use."""
