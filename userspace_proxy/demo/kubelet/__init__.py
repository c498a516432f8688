"""What runs a node's pods in the demo cluster, as the kubelet does on a real node.

It never builds the network: whoever implements `pod_network` does. Neighbours: `demo.api_client`, through
which it sees Pods and tells their status.
"""
