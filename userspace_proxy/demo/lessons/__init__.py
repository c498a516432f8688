"""Lessons about Services: texts whose commands are really run, in the demo cluster, and looked at.

`texts` has them as Markdown, which the documentation shows as it is. `lesson` reads one, pure; `stage` runs a
command where it belongs; `lecture` goes through a lesson and says what did not come out as the text has it.
Neighbours: a running cluster, which is asked by the commands that anybody has, `kubectl` and `demo exec`.
"""
