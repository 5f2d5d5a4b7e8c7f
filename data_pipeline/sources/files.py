"""Files of recordings: all below a directory, and the one that a row of a table means.

Every file below a directory is accounted for: used, refused with a reason, or printed as a number.
"""

import errno
import os
import stat
import sys
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.audio.io import AUDIO_SUFFIXES, UNREADABLE_AUDIO_SUFFIXES
from data_pipeline.runtime.errors import UserError
from data_pipeline.sources.speakers import NO_SPEAKER

_EXCLUDED = "outputs or paths of --exclude"

# From the least to the most tolerant way to compare two names.
_FORMS: tuple[Callable[[str], str], ...] = (
    str,
    lambda name: unicodedata.normalize("NFC", name),
    lambda name: _loose(name),
)


class AudioTree:
    """What a directory tree holds.

    Attributes:
        files: recordings, sorted. A file that is reached by several names (links) is there once:
            by the first of its names that is not in a linked folder or a link itself.
        refused: what cannot be used, and why: other kinds of audio, broken links.
    """

    def __init__(self, root: Path, real: str):
        self.files: list[Path] = []
        self.refused: dict[Path, str] = {}
        self._root, self._real = str(root), real
        # By identity, which for most files is their real path: the memory of ten million counts.
        self._paths: dict[str, str] = {}
        self._linked: set[str] = set()  # identities of what has no other name
        self._identities: dict[str, str] = {}  # of the others, by path
        self._reasons: dict[str, str] = {}

    def add(self, path: str, identity: str, linked: bool, reason: str = "") -> str | None:
        """Adds a name of a file; returns the name of it that does not count, if it has two."""
        if reason:
            # A link of another suffix is another input than the recording that it leads to.
            identity += "\0refused"
            self._reasons[identity] = reason
        if linked or reason or not identity.endswith(path[len(self._root) :]):
            self._identities[path] = identity
        kept = self._paths.setdefault(identity, path)
        if kept == path:
            if linked:
                self._linked.add(identity)
            return None
        if (linked, path) > (identity in self._linked, kept):
            return path
        self._paths[identity] = path
        if not linked:
            self._linked.discard(identity)
        return kept

    def close(self) -> None:
        """Sorts what was added."""
        paths = (path for key, path in self._paths.items() if key not in self._reasons)
        self.files = [Path(path) for path in sorted(paths)]
        refused = sorted((self._paths[key], reason) for key, reason in self._reasons.items())
        self.refused = {Path(path): reason for path, reason in refused}

    def identity(self, path: Path) -> str:
        """What a file is, by whatever name, here or elsewhere: equal for all links to it."""
        name = str(path)
        found = self._identities.get(name)
        if found is None and name.startswith(self._root):
            usual = self._real + name[len(self._root) :]
            found = usual if usual in self._paths else None
        return _identity(path) if found is None else found


def find_audio(root: Path, exclude: Iterable[str | os.PathLike[str]] = ()) -> AudioTree:
    """Searches a directory tree; links are followed, each folder is entered once.

    Hidden files and folders, files that are no audio, and `exclude` are left out: their numbers
    are printed. Paths of `exclude` that are not below `root` mean nothing.

    Args:
        root: absolute.
        exclude: folders below it, such as this program's output.

    Raises:
        UserError: a folder cannot be read, or `exclude` names `root` itself.
    """
    walk = _Walk(root, exclude)
    walk.run()
    walk.report()
    return walk.tree


def _identity(path: Path) -> str:
    try:
        status = os.stat(path)
        if status.st_nlink > 1 and status.st_ino and stat.S_ISREG(status.st_mode):
            return f"{status.st_dev}:{status.st_ino}"
    except OSError:
        pass
    return os.path.realpath(path)


def unreadable(name: str) -> str | None:
    """Why audio of this suffix cannot be read, and the remedy; None if it can, or is no audio."""
    suffix = os.path.splitext(name)[1].lower()
    return UNREADABLE_AUDIO_SUFFIXES.get(suffix)


@dataclass(frozen=True)
class FoundFile:
    """What a name means.

    Attributes:
        path: the file; where there is none, or more than one, the path as it is written.
        others: files that it may mean instead; empty unless it is ambiguous.
        respelled: the name is not written as the file's, see `FileFinder`.
        missing: there is no such file.
    """

    path: Path
    others: tuple[Path, ...] = ()
    respelled: bool = False
    missing: bool = False


class FileFinder:
    """Finds files by names relative to some folders; the first folder that has the file counts.

    A name without an exact match may differ from a file's in slashes (a backslash, a leading one),
    in Unicode form (NFC, NFD) and in upper and lower case. It may also leave out the suffix, and a
    folder such as wavs or clips before it.
    """

    def __init__(self, folders: Sequence[Path]):
        self._folders = list(dict.fromkeys(folders))
        self._listings: dict[Path, dict[str, list[str]]] = {}
        self._inner: dict[Path, list[Path]] = {}

    def __call__(self, name: str) -> FoundFile:
        """The file of a name; see `FoundFile`."""
        written = [Path(os.path.normpath(folder / name)) for folder in self._folders]
        for path in written:
            if os.path.isfile(path):
                return FoundFile(path)
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
        if not parts:
            return FoundFile(written[0], missing=True)
        inner = [path for folder in self._folders for path in self._inner_folders(folder)]
        named = parts[-1].lower().endswith(AUDIO_SUFFIXES)
        bare = [] if named else [[*parts[:-1], parts[-1] + suffix] for suffix in AUDIO_SUFFIXES]
        for folders, spellings in (
            (self._folders, [parts]),
            (self._folders, bare),
            (inner, [parts, *bare]),
        ):
            for form in _FORMS:
                found = {
                    path
                    for folder in folders
                    for spelling in spellings
                    for path in self._match(folder, spelling, form)
                }
                if len(found) == 1:
                    return FoundFile(found.pop(), respelled=True)
                if found:
                    return FoundFile(written[0], tuple(sorted(found)))
        return FoundFile(written[0], missing=True)

    def _match(self, folder: Path, parts: Sequence[str], form: Callable[[str], str]) -> list[Path]:
        reached = [folder]
        for part in parts:
            if part == "..":
                reached = [path.parent for path in reached]
                continue
            reached = [
                path / name
                for path in reached
                for name in self._listing(path).get(_loose(part), ())
                if form(name) == form(part)
            ]
        return [path for path in reached if os.path.isfile(path)]

    def _inner_folders(self, folder: Path) -> list[Path]:
        """Folders that names may leave out: wavs, clips, audio."""
        if folder not in self._inner:
            names = [name for listed in self._listing(folder).values() for name in listed]
            paths = [folder / name for name in names if NO_SPEAKER.fullmatch(name)]
            self._inner[folder] = [path for path in paths if path.is_dir()]
        return self._inner[folder]

    def _listing(self, folder: Path) -> dict[str, list[str]]:
        """The names in a folder, by what the most tolerant comparison sees."""
        if folder not in self._listings:
            names: dict[str, list[str]] = {}
            try:
                for name in sorted(os.listdir(folder)):
                    names.setdefault(_loose(name), []).append(name)
            except OSError:
                pass  # not a folder: nothing in it matches
            self._listings[folder] = names
        return self._listings[folder]


def report_respelled(table: str, respelled: Sequence[str]) -> None:
    """Prints how many names of a table are not written as the files' names, and the first."""
    if respelled:
        print(
            f"{table}: {len(respelled)} paths are written otherwise than the files' names (Unicode "
            f"form, case, slashes, suffix, a folder left out): {respelled[0]}",
            file=sys.stderr,
        )


class _Walk:
    def __init__(self, root: Path, exclude: Iterable[str | os.PathLike[str]]):
        self._root = root
        self._excluded = {os.path.realpath(path) for path in exclude}
        self._entered: set[str] = set()  # real paths of folders
        self.tree = AudioTree(root, os.path.realpath(root))
        self._left_out: dict[str, list[str]] = {}
        self._others: Counter[str] = Counter()

    def run(self) -> None:
        real = os.path.realpath(self._root)
        if real in self._excluded:
            raise UserError(
                f"audio_dir {self._root} is also the output or in --exclude: name another "
                "directory there, it may be below this one"
            )
        # Real folders first, so that a folder has its own name even where a link leads to it.
        links = deque(sorted(self._enter(str(self._root), real, linked=False)))
        while links:
            path = links.popleft()
            target = os.path.realpath(path)
            if target in self._entered:
                self._note("links to folders that are searched anyway", path)
            elif any(_holds(folder, target) for folder in self._excluded):
                self._note(_EXCLUDED, path)
            elif _holds(target, real) or _holds(target, os.path.realpath(os.path.dirname(path))):
                self._note("links to a folder that they are in", path)
            else:
                links.extend(sorted(self._enter(path, target, linked=True)))
        self.tree.close()

    def report(self) -> None:
        for what, paths in self._left_out.items():
            print(
                f"{self._root}: left out {len(paths)} {what}, such as {paths[0]}", file=sys.stderr
            )
        if self._others:
            counts = ", ".join(f"{name} {count}" for name, count in self._others.most_common(8))
            total = sum(self._others.values())
            print(
                f"{self._root}: left out {total} files that are no audio ({counts})",
                file=sys.stderr,
            )

    def _enter(self, top: str, real_top: str, linked: bool) -> list[str]:
        """Searches a folder and those in it; returns the links to folders."""
        links = []
        pending = [(top, real_top)]
        while pending:
            folder, real = pending.pop()
            if real in self._entered:
                continue
            self._entered.add(real)
            for entry in _entries(folder):
                inside = entry.path if folder == real else os.path.join(real, entry.name)
                if entry.name.startswith("."):
                    self._hidden(entry)
                elif entry.is_symlink():
                    if self._link(entry):
                        links.append(entry.path)
                elif not entry.is_dir(follow_symlinks=False):
                    self._file(entry, inside, linked)
                elif inside in self._excluded:
                    self._note(_EXCLUDED, entry.path)
                else:
                    pending.append((entry.path, inside))
        return links

    def _link(self, entry: os.DirEntry[str]) -> bool:
        """Whether a link leads to a folder; one to a file, or to nothing, is dealt with."""
        try:
            is_folder = stat.S_ISDIR(entry.stat().st_mode)
        except OSError as error:
            loop = error.errno == errno.ELOOP
            why = "leads to itself" if loop else f"cannot be followed: {error.strerror}"
            self._add(entry, entry.path, True, f"a link to {os.readlink(entry.path)!r} that {why}")
            return False
        if not is_folder:
            self._file(entry, os.path.realpath(entry.path), linked=True)
        return is_folder

    def _file(self, entry: os.DirEntry[str], real: str, linked: bool) -> None:
        name = entry.name.lower()
        is_audio = name.endswith(AUDIO_SUFFIXES)
        reason = None if is_audio else unreadable(name)
        if not is_audio and not reason:
            self._others[os.path.splitext(name)[1] or "without suffix"] += 1
            return
        if real in self._excluded:
            self._note(_EXCLUDED, entry.path)
            return
        try:
            status = entry.stat()
        except OSError as error:
            self._add(entry, real, linked, f"cannot be read: {error.strerror}")
            return
        if not stat.S_ISREG(status.st_mode):
            reason = "not a regular file"
        elif status.st_nlink > 1 and status.st_ino:
            real = f"{status.st_dev}:{status.st_ino}"
        self._add(entry, real, linked, reason or "")

    def _add(self, entry: os.DirEntry[str], real: str, linked: bool, reason: str = "") -> None:
        if other := self.tree.add(entry.path, real, linked, reason):
            self._note("further names of recordings that count once", other)

    def _hidden(self, entry: os.DirEntry[str]) -> None:
        # What macOS writes beside each file on other systems' disks has the file's own suffix.
        is_audio = entry.name.lower().endswith(AUDIO_SUFFIXES) and not entry.name.startswith("._")
        if is_audio or entry.is_dir():
            self._note("hidden files or folders", entry.path)

    def _note(self, what: str, path: str) -> None:
        self._left_out.setdefault(what, []).append(path)


def _holds(folder: str, inner: str) -> bool:
    return os.path.commonpath([folder, inner]) == folder


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            yield from sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(
            f"cannot read the folder {folder}: {error.strerror}; make it readable, or leave it out "
            f"with --exclude={folder}"
        ) from error


def _loose(name: str) -> str:
    # Folding may undo the composed form.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
