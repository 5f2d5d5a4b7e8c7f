"""A page in the browser on which a model makes speech."""
