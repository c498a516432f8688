"""A cluster to look at: namespaces as nodes and pods, a real agent on each node, an API that kubectl speaks.

Everything happens in namespaces that vanish with their last process; nothing of the host is ever touched.
`isolation` leaves the host behind. For `userspace-proxy demo`, `commands` are its verbs, `launch` starts
`daemon`, and that is the whole cluster: `cluster_network`, `control_plane` (with `api_server`, `controllers`,
`dns` and `kubelet`) and `agents`. `lessons` are given on it. For `make demo`, `cluster_tour` shows a
`temporary_cluster`; `tour` shows a single node that serves manifests, and `node_network` builds that one. The
tests stand on the same ground. Runs the agent as a user would, by its command, and imports none of it.
"""
