"""What a text must not hold to be a transcript, or to be stored at all."""

import re

# Line breaks and tabs are text; so is U+0085, next line, of the second range.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")


def flaw(text: str, control: bool = True) -> str:
    """Why a text cannot be used, "" if it can.

    Args:
        text: as decoded with the error handler `surrogateescape`.
        control: whether control characters are flaws too.
    """
    if text.isprintable():  # as nearly all are
        return ""
    found = _CONTROL.search(text) if control else None
    if found:
        return f"the control character U+{ord(found[0]):04X}"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        if 0xDC80 <= code <= 0xDCFF:
            return f"the byte 0x{code - 0xDC00:02X}, which is not UTF-8"
        return f"the lone surrogate U+{code:04X}"
    return ""


def printable(text: str) -> str:
    """The text with what UTF-8 cannot hold written out, for messages."""
    return text.encode("utf-8", "backslashreplace").decode()
