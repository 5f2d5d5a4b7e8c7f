"""Likelihoods under a model: held-out, of minimal pairs, of files; and how generated samples end.

`scoring.open_scoring` makes of a loaded model what all of this needs. Only here does evaluation
import JAX.
"""
