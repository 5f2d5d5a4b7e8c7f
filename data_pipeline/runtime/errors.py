"""Errors that reach the user as one line."""


class UserError(Exception):
    """Bad input: the message names the file or flag, what is wrong with it, and the remedy."""
