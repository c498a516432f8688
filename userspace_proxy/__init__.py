"""A Kubernetes Service proxy in user space.

An *agent* watches Services and EndpointSlices, opens a listener for every Service port and captures what is
sent to the Service's addresses with iptables. *Workers* accept those connections, connect to an endpoint in
turn - to another one when that fails - and let the kernel move the bytes.
"""
