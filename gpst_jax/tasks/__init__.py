"""Frozen evaluation tasks: which items, how speech is generated for them, what scores it.

Stands above `synthesis` and `evaluation`, since a task generates with the one and scores with the
other; `evaluation` itself knows no model.
"""
