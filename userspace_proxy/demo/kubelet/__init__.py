"""What runs a node's pods in the demo cluster, as the kubelet does on a real node.

Decisions are pure: `pod_life` is told what happens and answers with `commands`, with `container_life`,
`probe_schedule`, `environment`, `pod_spec`, `pod_status` and `node_object` around it. `kubelet` and its
`pod_worker`s carry them out, through `processes` (children of a `zygote`, most of them a `pod_server`),
`probing`, `container_logs`, `status_writer` and `registration`. It never builds the network: `pod_network`
says what it needs, and somebody else makes it. Neighbours: `demo.api_client` and `demo.mirror`, by which it
sees Pods and tells of them.
"""
