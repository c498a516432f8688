"""What makes the cluster be as its objects say: pods for Deployments, nodes for pods, endpoints for Services.

Each controller is a pure `plan_…` function in a module of its own, from what there is, the time and chance to
the writes that are due. `controller` runs them: again after every change, never from memory of what was done.
They speak to the API server alone, as those of a real cluster do. Must never look at a node or a process:
that is the kubelet's. Neighbours: `demo.mirror`, `demo.api_client`; `cluster_controllers` puts all together.
"""
