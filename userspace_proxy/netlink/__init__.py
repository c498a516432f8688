"""What the kernel says and takes over netlink: addresses and links of the node, conntrack entries.

pyroute2 does not run on uvloop, so every call in here blocks and is meant for a thread. Neighbours: none
(`agent` composes); it imports `core` and `errors` only.
"""
