"""Token dataset to sequences of text and speech."""
