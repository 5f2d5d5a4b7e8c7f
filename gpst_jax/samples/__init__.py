"""Tokens to audio files with a `manifest.jsonl`, the contract that evaluation reads."""
