"""What gateway, neuron and command line share: vocabulary, contract, configuration, dialects and errors."""
