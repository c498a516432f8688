"""The proxy beside its peers on the same work: `python -m benchmarks`, or `make bench`.

Stands on the demo's namespaces, starts every proxy as an operator would, by its command, and imports nothing
of what it measures. `testbed` builds, `peers` are what is measured, `works` are what they have to do.
"""
