"""The node agent: joins a source, the workers and the rules, and keeps what is equal to what is wanted.

`agent` composes and owns the life cycle, `proxier` follows the plan with listeners and workers,
`portal_capture` follows with rules, `cleanup` takes everything back. This is the one place that knows all
adapters; it never touches a proxied byte.
"""
