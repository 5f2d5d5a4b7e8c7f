"""Studies of language models of text and units, and of flow matching; pages: docs/studies/coig."""
