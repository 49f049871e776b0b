"""Dialect to dialect: requests, answers and streams, as functions of values that remember nothing between requests.

Everything is translated to and from the engine's chat completions. What must survive from one turn to the next travels
with the client, inside an opaque signature (`opaque`).
"""
