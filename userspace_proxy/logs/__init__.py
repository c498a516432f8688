"""How log lines look, and how they get out without making anybody wait.

Agent, workers and supervisor log through it, each in its own process. It decides nothing about what is worth
saying. Neighbours: none; it imports nothing of ours, and the adapters may import it.
"""
