"""What people can see of the proxy: the problems of their objects.

Nothing in here changes what the proxy does. Neighbours: none (`agent` composes); it imports `core` and
`errors` only.
"""
