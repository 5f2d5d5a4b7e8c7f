"""Errors that reach the user as one line."""


class UserError(Exception):
    """Bad input: the message names the file or flag, what is wrong with it, and the remedy."""


class NotReadyError(Exception):
    """An accelerator, port or host is not ready: the same command may work a little later."""
