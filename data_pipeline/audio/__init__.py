"""Audio signals: reading and writing files, chunking, voice activity."""
