"""The talk with a live agent over its admin socket: protocol, server, client, for whoever may be root there.

`server` answers with what it is given by name; it knows neither Services nor rules. `client` asks, for the
command line. Neighbours: none (`agent` composes what is answered, `cli` shows it); it imports `core` and
`errors` only. The protocol is docs/admin-protocol.md.
"""
