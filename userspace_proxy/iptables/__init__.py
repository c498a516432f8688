"""Capture: the rules that lead a Service's addresses to our listeners, and the two ways to install them.

`rules` are values, in `chains`; `portal_rules` computes them, with `portal_chains` and `portal_guard`;
`python_iptables` and `iptables_restore` read and commit. Nothing in here knows of Services, endpoints or
workers, and only chains of ours and the jumps to them are ever written. Neighbours: none (`agent`
composes); it imports `core` and `errors` only.
"""
