"""Evaluation of speech: named recipes, confidence intervals, and the report page.

Nothing but `likelihood` imports JAX: evaluation runs published models on audio files.
"""
