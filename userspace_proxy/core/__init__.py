"""The decisions: what to serve, where, and who is next. Pure functions and values.

Nothing in here opens a socket, reads a clock, draws a random number, logs or awaits: time and chance are
arguments. Every other folder may import this one; this one imports only `errors`.
"""
