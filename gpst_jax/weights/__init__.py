"""Weights on their way out of a run, and back: safetensors, torch, Orbax, adapters.

`sources` reads models of every kind array by array, `families` names their tensors, `directory`
writes them, `loading` brings them onto devices.
"""
