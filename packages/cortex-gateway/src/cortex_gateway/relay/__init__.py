"""One request on its way: to an engine, and its answer back in the client's dialect."""
