"""How an agent is to run: the table of its options, and one checked value made of what was said.

An option is one entry of `options.OPTIONS`. Flags, environment variables, fields of the configuration file,
what `--write-config-to` writes and docs/configuration.md follow from it; `agent_configuration` checks what
only several options together can get wrong. `sources_of_options` alone reads files and asks the machine.
Neighbours: `cli` and `agent` use it; it imports `sources` (for YAML), `core` and `errors`.
"""
