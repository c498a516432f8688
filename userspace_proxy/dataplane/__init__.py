"""Carrying: listeners, connections to endpoints, relays, and the pool of processes that run them.

A `Worker` is an object that runs in anybody's event loop; `worker_pool` runs several as processes. Nothing in
here reads the API or iptables, and no Python touches a byte in bulk. Neighbours: none (`agent` composes); it
imports `core` and `errors` only.
"""
