"""Measuring speech: named recipes, confidence intervals, and the report page.

Nothing here imports JAX: evaluation reads sound files and runs other people's models on them.
"""
