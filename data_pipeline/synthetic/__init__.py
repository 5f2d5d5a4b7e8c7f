"""Synthetic corpus of the demos: spoken questions, and eSpeak NG voices."""
