"""What a live agent says of itself: values whose JSON is the admin protocol's, and how they come about.

As pure as the rest of the core. Fields may come; one that is there keeps its name and meaning, since others'
programs read them.
"""
