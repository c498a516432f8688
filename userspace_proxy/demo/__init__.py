"""A cluster to look at: network namespaces as pods and nodes, servers for them, and a tour with real clients.

Everything happens in namespaces that vanish with their last process; nothing of the host is ever touched.
`isolation` leaves the host behind, `namespaces` and `node_network` build, `server` answers, `tour` shows.
The tests stand on the same ground. Runs the agent as a user would, by its command, and imports none of it.
"""
