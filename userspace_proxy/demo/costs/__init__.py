"""What it costs to reach a pod in several ways, measured from within a pod of the demo cluster.

`measuring` asks for some seconds, each way in turn, and reads from /proc what that has cost whom; `figures`
makes medians of it, `table` a text and `picture` an SVG: these three are pure. It is a lesson and no
benchmark: client and server are Python, and whatever else the machine does is in the figures. Benchmarks are
in `benchmarks`. Neighbours: the lesson about costs, which runs it.
"""
