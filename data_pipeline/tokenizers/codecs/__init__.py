"""Acoustic codecs: audio to residual-quantised codes and back."""
