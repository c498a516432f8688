"""Faults of every kind at once, on one node, under clients of every kind: `python -m tests.chaos --help`.

`schedule` says which fault begins when, as a function of the seed alone. `table` lists the faults, and the
files that it imports say what each one does, how it ends, and what it excuses: what docs/faults.md does not
promise, and nothing else. `clients` are the checkers: each remembers what it met as a `Conversation`, and a
`Ledger` judges it. `leaks` looks at what is left in the end.
"""
