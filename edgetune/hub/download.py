"""A model from the hub: fetched, verified byte for byte, and put in its place whole.

Until it is whole it lies beside its place in a hidden folder that survives a kill: the next download of the same model
hashes what is there and asks only for the rest. (huggingface_hub keeps nothing of a killed download, and compares sizes
where we compare hashes; its session, addresses and token are used.)
"""

import hashlib
import os
import time
from pathlib import Path
from typing import Protocol

from edgetune.errors import HubError, ModelError, VerificationFailed
from edgetune.events import Progress, Warned
from edgetune.faults import fault
from edgetune.files import CHUNK, clean, discard, disk_errors, flush, move, require_space
from edgetune.hub import catalog
from edgetune.hub.connection import TryAgain, answer, endpoint, is_offline, patiently, require_address
from edgetune.hub.library import (
    Check,
    OnProgress,
    Record,
    bytes_in,
    locked,
    place_of,
    read_record,
    resolve,
    unfinished_place,
    write_record,
)
from edgetune.hub.listing import HubFile, Listing, is_repository, is_weights, read_listing, refuse_incomplete

TELL_SECONDS = 0.2


def ensure(name: str, offline: bool = False, on_progress: OnProgress | None = None, check: Check | None = None) -> Path:
    """The folder of a model; downloaded first where it is the hub's, is not here, and calls are allowed.

    Raises:
        ModelError: there is no such model here, and none may be fetched.
        HubError, VerificationFailed, DiskFull: as `get`.
    """
    try:
        return resolve(name)
    except ModelError:
        known = catalog.find(name)
        repository = known.repository if known else name
        if offline or is_offline() or "/" not in repository or not is_repository(repository):
            raise
        return get(repository, on_progress=on_progress, check=check)


def get(name: str, offline: bool = False, on_progress: OnProgress | None = None, check: Check | None = None) -> Path:
    """Fetches REPOSITORY, REPOSITORY@REVISION or a name of the catalogue into the library, or continues to.

    `check` sees the folder before the weights are fetched, so that a model of no use costs no more than its config.

    Raises:
        HubError: calls are forbidden, or the hub does not answer, says no, or has no such model.
        VerificationFailed: bytes are not those that the hub promises, after a second try.
        DiskFull: too little room, before or while fetching.
        InputError: another process is fetching it, or `check` objects.
    """
    name, _, revision = name.partition("@")
    known = catalog.find(name)
    if known and known.folder:
        return known.folder
    repository = known.repository if known else name
    if not is_repository(repository):
        raise HubError(f"{clean(name)!r} is no name on the hub", hint="give ORGANISATION/NAME, as in its address")
    if offline or is_offline():
        hint = "without --offline and HF_HUB_OFFLINE, or bring a folder: `edgetune models import PATH`"
        raise HubError(f"offline: {repository} is not fetched", hint=hint)
    revision = revision or (known.revision if known else "main")
    return download(repository, revision, known.files if known else [], check, on_progress or (lambda _: None))


def download(repository: str, revision: str, required: list[str], check: Check | None, tell: OnProgress) -> Path:
    """Fetches a repository's model files at a revision into their place; `required` names must be among them."""
    place = place_of(repository)
    require_address()
    meter = Meter(tell)
    listing = patiently(lambda: read_listing(repository, revision), waiting=meter.wait)
    refuse_incomplete(listing, required)
    if is_whole(place, listing):
        return place
    kept = unfinished_place(place)
    with locked(kept):
        remove_strangers(kept, listing)
        meter.total = sum(file.size for file in listing.files)
        require_space(kept, meter.total - bytes_in(kept))
        fetch_all(listing, kept, meter, check)
        put_in_place(kept, place, listing)
    return place


def is_whole(place: Path, listing: Listing) -> bool:
    """Whether `place` already holds this commit."""
    record = read_record(place)
    same = record is not None and (record.source, record.commit) == (listing.repository, listing.commit)
    return same and all(has_size(place / file.name, file.size) for file in listing.files)


def has_size(path: Path, size: int) -> bool:
    """Whether a file is there with that many bytes."""
    return path.is_file() and path.stat().st_size == size


def remove_strangers(kept: Path, listing: Listing) -> None:
    """Removes what an earlier download left that is not part of this commit."""
    names = {file.name for file in listing.files}
    for path in kept.rglob("*"):
        if path.is_file() and path.relative_to(kept).as_posix() not in names:
            path.unlink()


class Meter:
    """Counts the bytes of all files together and tells of them a few times a second."""

    def __init__(self, on_progress: OnProgress):
        self.on_progress = on_progress
        self.done, self.total = 0, 0
        self.stage, self.told = "", 0.0

    def add(self, count: int, stage: str = "downloading") -> None:
        """So many bytes more are there; fewer where some were thrown away."""
        now = time.monotonic()
        self.done += count
        if stage != self.stage or now - self.told >= TELL_SECONDS or self.done == self.total:
            self.stage, self.told = stage, now
            self.on_progress(Progress(stage=stage, done=self.done, total=self.total, unit="bytes"))

    def wait(self, why: str) -> None:
        """Tells of a pause before the next try."""
        self.on_progress(Warned(message=f"{why}; trying again"))


def fetch_all(listing: Listing, kept: Path, meter: Meter, check: Check | None) -> None:
    """Fetches the files in their order, the small ones first, with `check` between them and the weights."""
    small = [file for file in listing.files if not is_weights(file.name)]
    for file in small:
        fetch(listing, file, kept / file.name, meter)
    if check:
        check(kept)
    for file in listing.files[len(small) :]:
        fetch(listing, file, kept / file.name, meter)


def fetch(listing: Listing, file: HubFile, path: Path, meter: Meter) -> None:
    """One file, verified. What was kept of an earlier download may be damaged: then it is fetched once more, whole.

    Raises:
        VerificationFailed: the hub sent other bytes than it promises; they are removed.
    """
    with disk_errors(path):
        path.parent.mkdir(exist_ok=True)
        had_some = path.exists()
    transfer = Transfer(listing, file, path, meter)
    for _ in range(2 if had_some else 1):
        if transfer.run() == file.digest:
            return
        transfer.begin_again()
        path.unlink()
    raise VerificationFailed(
        f"{listing.repository}: {file.name} is not what the hub promises: its hash differs. It was removed",
        hint="try again; if it stays so, this copy of the repository is damaged",
    )


class Transfer:
    """One file on its way: its bytes on the disk, and their hash so far."""

    def __init__(self, listing: Listing, file: HubFile, path: Path, meter: Meter):
        from huggingface_hub import hf_hub_url

        self.url = hf_hub_url(listing.repository, file.name, revision=listing.commit, endpoint=endpoint())
        self.what = f"{listing.repository}: {file.name}"
        self.file, self.path, self.meter = file, path, meter
        self.have, self.hash = 0, new_hash(file)

    def run(self) -> str:
        """Takes what is there, fetches the rest, and gives the hash of the whole in hexadecimal."""
        with disk_errors(self.path):
            self.path.touch()
            if self.path.stat().st_size > self.file.size:
                os.truncate(self.path, 0)
        self.take_kept()
        while self.have < self.file.size:
            patiently(self.attempt, arrived=lambda: self.have, waiting=self.meter.wait)
        return self.hash.hexdigest()

    def take_kept(self) -> None:
        """Counts and hashes the bytes that an earlier download left."""
        with self.path.open("rb") as kept:
            while chunk := kept.read(CHUNK):
                self.count(chunk, "checking what is already here")

    def attempt(self) -> None:
        """Asks for the rest and takes what comes.

        Raises:
            TryAgain: the connection ended before the file did.
            HubError: what comes is not this file.
        """
        with answer(self.url, self.what, start=self.have) as reply, disk_errors(self.path), self.path.open("ab") as out:
            if self.have and reply.status_code != 206:
                self.begin_again()
                out.truncate(0)
            for chunk in reply.iter_bytes():
                if self.have + len(chunk) > self.file.size:
                    raise HubError(f"{self.what}: more bytes come than the hub promises", hint="try again later")
                out.write(chunk)
                out.flush()  # so that a kill loses nothing that arrived
                self.count(chunk, "downloading")
                fault("download-chunk")
        if self.have < self.file.size:
            raise TryAgain(f"the connection ended at {self.have} of {self.file.size} bytes of {self.what}")

    def count(self, chunk: bytes, stage: str) -> None:
        """Takes note of the next bytes of the file."""
        self.hash.update(chunk)
        self.have += len(chunk)
        self.meter.add(len(chunk), stage)

    def begin_again(self) -> None:
        """Forgets all bytes so far."""
        self.meter.add(-self.have)
        self.have, self.hash = 0, new_hash(self.file)


class Hash(Protocol):
    """What we use of hashlib's objects."""

    def update(self, data: bytes, /) -> None:
        """Takes more bytes."""
        ...

    def hexdigest(self) -> str:
        """The hash of all bytes so far."""
        ...


def new_hash(file: HubFile) -> Hash:
    """SHA-256, or git's own SHA-1 of a small file: that of "blob", its size, a zero byte, and its bytes."""
    if len(file.digest) == 64:
        return hashlib.sha256()
    return hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)


def put_in_place(kept: Path, place: Path, listing: Listing) -> None:
    """Makes the files durable and the folder visible in one rename; an older commit goes to trash."""
    with disk_errors(place):
        digests = {file.name: file.digest for file in listing.files}
        write_record(kept, Record(listing.repository, listing.commit, listing.license, digests))
        for path in [*sorted(kept.rglob("*")), kept]:
            fault("download-flush")
            flush(path)
        if place.exists():
            discard(place, "download")
        move(kept, place, "download")
        flush(place.parent)
