"""Evaluation of speech: named recipes, confidence intervals, and the report page.

Nothing here imports JAX: evaluation runs published models on audio files.
"""
