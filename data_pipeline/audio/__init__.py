"""Signals: reading and writing files, chunking, voice activity."""
