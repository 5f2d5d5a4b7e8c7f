"""One process per folder of a bucket: the claim of `claim`, kept as an object.

A bucket has no locks, but a write can name the generation of the object that it replaces: of two
processes that take the claim at once, one succeeds. A holder on this machine is alive while its
process runs; one elsewhere while it beats, see `claim`. Ages are differences of times that the
bucket itself has set.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from data_pipeline.runtime import buckets, claim, exit_codes
from data_pipeline.runtime.buckets import Location
from data_pipeline.runtime.claim import CLAIM_FILE, Holder
from data_pipeline.runtime.errors import UserError

_END_SECONDS = 5.0  # a bucket that does not answer must not hold up the end of a run


class _Taken(Exception):
    """Another process has written the claim since it was read."""


class _Stored(NamedTuple):
    """The claim as it is in the bucket."""

    holder: Holder
    generation: int
    updated: datetime


@contextlib.contextmanager
def claimed(folder: Location) -> Iterator[Holder]:
    """Holds a folder for as long as the context lasts.

    Raises:
        UserError: another live process holds it.
        BucketError: the bucket does not answer, or refuses.
    """
    place = _Place(folder)
    free = _free_generation(place)
    mine = claim.this_process()
    try:
        generation = place.write(mine, free)
    except _Taken as error:
        now = place.read()
        who = str(now.holder) if now else "it has just been claimed"
        raise UserError(claim.refusal(folder, who)) from error
    ended = threading.Event()
    keeper = _Keeper(place, mine, generation)
    thread = threading.Thread(target=keeper.run, args=(ended,), name="claim", daemon=True)
    thread.start()
    try:
        yield mine
    finally:
        ended.set()
        thread.join(_END_SECONDS)
        with contextlib.suppress(OSError):  # it then counts as dead in a while
            place.remove(keeper.generation)


class _Place:
    """The object of a claim."""

    def __init__(self, folder: Location):
        self.folder = os.fspath(folder).rstrip("/")
        bucket, name = buckets.bucket_and_name(folder)
        buckets.file_system(folder)  # says what has to be installed
        storage = importlib.import_module("google.cloud.storage")
        self._errors = importlib.import_module("google.api_core.exceptions")
        with buckets.access(folder):
            emulated = os.environ.get(buckets.EMULATOR)
            client = storage.Client.create_anonymous_client() if emulated else storage.Client()
        self._bucket, self._name = client.bucket(bucket), f"{name}/{CLAIM_FILE}"

    def read(self) -> _Stored | None:
        """What is stored; None where there is none."""
        with buckets.access(self.folder):
            while True:
                blob = self._bucket.get_blob(self._name)
                if blob is None:
                    return None
                try:
                    data = blob.download_as_bytes(if_generation_match=blob.generation)
                except (self._errors.NotFound, self._errors.PreconditionFailed):
                    continue  # replaced between the two calls
                names = {field.name for field in dataclasses.fields(Holder)}
                fields = {k: v for k, v in json.loads(data).items() if k in names}
                return _Stored(Holder(**fields), int(blob.generation), blob.updated)

    def write(self, holder: Holder, generation: int) -> int:
        """Replaces a generation, 0 for none; returns the new one.

        Raises:
            _Taken: another generation is there.
        """
        data = json.dumps(dataclasses.asdict(holder)).encode() + b"\n"
        with buckets.access(self.folder):
            blob = self._bucket.blob(self._name)
            try:
                blob.upload_from_string(data, if_generation_match=generation)
                return int(blob.generation)
            except self._errors.PreconditionFailed as error:
                taken = error
        now = self.read()  # a request whose answer was lost is sent again, and then refused
        if now is not None and now.holder == holder:
            return now.generation
        raise _Taken(str(taken))

    def remove(self, generation: int) -> None:
        """Removes a generation, if it is still there."""
        gone = (self._errors.NotFound, self._errors.PreconditionFailed)
        with buckets.access(self.folder), contextlib.suppress(*gone):
            self._bucket.blob(self._name).delete(
                if_generation_match=generation, timeout=_END_SECONDS, retry=None
            )

    def now(self) -> datetime:
        """The time by the bucket's clock."""
        with buckets.access(self.folder):
            probe = self._bucket.blob(f"{self._name}-{uuid.uuid4().hex[:8]}")
            probe.upload_from_string(b"")
            probe.delete()
            return probe.updated


class _Keeper:
    """Beats while a claim is held; ends the process if another one has taken it."""

    def __init__(self, place: _Place, mine: Holder, generation: int):
        self._place, self._mine, self.generation = place, mine, generation

    def run(self, ended: threading.Event) -> None:
        """Beats until `ended`."""
        while not ended.wait(claim.BEAT_SECONDS):
            self._mine = dataclasses.replace(self._mine, beat=self._mine.beat + 1)
            try:
                self.generation = self._place.write(self._mine, self.generation)
            except _Taken:
                print(
                    f"error: this process was silent for long and another has taken "
                    f"{self._place.folder}: ending, so that only one writes",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(exit_codes.STORAGE)
            except OSError:
                continue  # whoever writes the data reports the storage


def _free_generation(place: _Place) -> int:
    """The generation of a claim that may be replaced, 0 for none; UserError if its holder lives."""
    stored = place.read()
    if stored is None:
        return 0
    refused = UserError(claim.refusal(place.folder, str(stored.holder)))
    if claim.on_this_machine(stored.holder):
        if claim.runs(stored.holder):
            raise refused
        return stored.generation
    if (place.now() - stored.updated).total_seconds() > claim.DEAD_SECONDS:
        return stored.generation
    print(
        f"{place.folder} is held by {stored.holder}: watching for up to "
        f"{claim.DEAD_SECONDS:.0f} s whether it lives",
        file=sys.stderr,
        flush=True,
    )
    deadline = time.monotonic() + claim.DEAD_SECONDS
    while time.monotonic() < deadline:
        time.sleep(claim.BEAT_SECONDS / 2)
        now = place.read()
        if now is None:
            return 0  # it has finished
        if now.generation != stored.generation:
            raise refused
    return stored.generation
