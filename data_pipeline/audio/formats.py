"""Which files are recordings, by suffix: those that libsndfile reads, and those that it does not.

All suffixes are lower-case and start with a dot.
"""

import soundfile

# By libsndfile's name of the format. Left out are formats without a header (RAW) or with half of
# the content elsewhere (SD2), and suffixes that mostly name other things (mat, xi, htk, mpc).
_SUFFIXES = {
    "WAV": (".wav", ".wave", ".bwf"),
    "FLAC": (".flac",),
    "OGG": (".ogg", ".oga", ".opus"),
    "MP3": (".mp3", ".mp2", ".mpga"),
    "AIFF": (".aiff", ".aif", ".aifc"),
    "AU": (".au", ".snd"),
    "W64": (".w64",),
    "RF64": (".rf64",),
    "CAF": (".caf",),
    "NIST": (".sph", ".nist"),
    "VOC": (".voc",),
    "SVX": (".8svx", ".svx"),
    "IRCAM": (".ircam",),
    "PAF": (".paf",),
    "PVF": (".pvf",),
}

_REMEDY = "is not read: convert it, for example with ffmpeg -i NAME{suffix} NAME.flac"
_UNREADABLE = {
    "MPEG-4 or AAC audio": ".m4a .m4b .m4p .m4r .aac .adts .alac",
    "Windows Media audio": ".wma .asf",
    "telephone audio": ".amr .awb .3ga .gsm .vox .qcp .evrc .g722 .g723 .g729",
    "compressed audio": ".ac3 .eac3 .dts .ape .mpc .mp+ .tta .wv .shn .ofr .tak .spx .ra .ram "
    ".mka .weba .dsf .dff .oma .aa .aax",
    "audio without a header, or of an editor,": ".raw .pcm .sd2 .aup .aup3",
    "video": ".mp4 .m4v .mkv .webm .mov .avi .3gp .3g2 .wmv .flv .f4v .mpg .mpeg .mpe .ogv .ogm "
    ".ogx .ts .mts .m2ts .vob .rm .rmvb .divx .qt",
}
# By the first bytes of a file, from an offset on.
_CONTENTS = {
    (4, b"ftyp"): "MPEG-4, as in m4a, mp4 and mov",
    (0, b"\x1a\x45\xdf\xa3"): "Matroska, as in webm and mkv",
    (0, b"\x30\x26\xb2\x75"): "Windows Media, as in wma",
    (0, b"#!AMR"): "AMR",
    (0, b"\xff\xf1"): "AAC",
    (0, b"\xff\xf9"): "AAC",
    (0, b"MAC "): "Monkey's Audio",
    (0, b"wvpk"): "WavPack",
    (0, b"ajkg"): "Shorten",
}


def what_it_is(head: bytes) -> str:
    """What a file with these first bytes is, that libsndfile refuses, and the remedy if known."""
    for (offset, mark), name in _CONTENTS.items():
        if head[offset : offset + len(mark)] == mark:
            return f"it is {name}: convert it, for example with ffmpeg to flac"
    return "corrupt, or another format"


def _readable() -> tuple[str, ...]:
    available = soundfile.available_formats()
    return tuple(s for name, suffixes in _SUFFIXES.items() if name in available for s in suffixes)


def _unreadable() -> dict[str, str]:
    table = {}
    for what, suffixes in _UNREADABLE.items():
        for suffix in suffixes.split():
            table[suffix] = f"{what} ({suffix}) " + _REMEDY.format(suffix=suffix)
    for readable in _SUFFIXES.values():
        for suffix in readable:
            if suffix not in AUDIO_SUFFIXES:
                remedy = _REMEDY.format(suffix=suffix)
                table[suffix] = f"audio of a kind that this libsndfile lacks ({suffix}) {remedy}"
    return table


AUDIO_SUFFIXES = _readable()
# Why a file of this suffix is not read, and what to do.
UNREADABLE_AUDIO_SUFFIXES = _unreadable()
