"""What a repository on the hub holds at one commit: a model's files, each with its size and a hash to verify it by."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import NamedTuple
from urllib.parse import quote

import msgspec
from msgspec import Struct, field

from edgetune.errors import HubError, InputError
from edgetune.files import clean, safe_name
from edgetune.hub.connection import answer, endpoint

WANTED = ("*.json", "model*.safetensors", "*.jinja", "tokenizer.model", "*.txt")
LIST_LIMIT = 16_000_000  # bytes
HOSTILE = "this repository is damaged or hostile"


class HubFile(NamedTuple):
    """One file as the hub promises it: `digest` is a SHA-256, or the SHA-1 that git gives a small file."""

    name: str
    size: int
    digest: str


class Listing(NamedTuple):
    """What a repository holds at one commit."""

    repository: str
    commit: str
    license: str
    files: tuple[HubFile, ...]


class LargeFile(Struct):
    """The part of the hub's answer about a file in large-file storage."""

    sha256: str


class Sibling(Struct, rename={"name": "rfilename", "blob": "blobId"}):
    """The part of the hub's answer about one file."""

    name: str
    size: int | None = None
    blob: str | None = None
    lfs: LargeFile | None = None


class Answer(Struct):
    """The part that we read of the hub's answer about a repository."""

    sha: str
    siblings: list[Sibling]
    tags: list[str] = field(default_factory=lambda: list[str]())


def is_repository(name: str) -> bool:
    """Whether it could be a repository's name: NAME or ORGANISATION/NAME."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
        return all(safe_name(part) for part in name.split("/"))
    except (HFValidationError, InputError):
        return False


def read_listing(repository: str, revision: str) -> Listing:
    """One request for all names, sizes and hashes of a repository at a revision.

    Raises:
        HubError: there is no such thing, or the answer makes no sense or names a file that could leave its folder.
    """
    url = f"{endpoint()}/api/models/{repository}/revision/{quote(revision, safe='')}?blobs=true"
    what = repository if revision == "main" else f"{repository}: revision {clean(revision)}"
    body = bytearray()
    with answer(url, what) as reply:
        for piece in reply.iter_bytes():
            body += piece
            if len(body) > LIST_LIMIT:
                raise HubError(f"{repository} has an endless list of files", hint="choose another repository")
    try:
        found = msgspec.json.decode(body, type=Answer)
    except (ValueError, RecursionError):
        hint = "does this network ask for a sign-in? open a browser and see; otherwise try again later"
        raise HubError(f"the hub's answer about {what} is not one", hint=hint) from None
    if not re.fullmatch("[0-9a-f]{40}", found.sha):
        raise HubError(f"the hub names no commit for {what}", hint="try again later")
    license = next((tag.removeprefix("license:") for tag in found.tags if tag.startswith("license:")), "")
    files = (hub_file(sibling, repository) for sibling in found.siblings if is_wanted(sibling.name))
    in_order = sorted(files, key=lambda file: (is_weights(file.name), file.size))
    return Listing(repository, found.sha, clean(license), tuple(in_order))


def is_wanted(name: str) -> bool:
    """Whether a file of a model folder is part of the model: never code, never a pickle."""
    *folders, last = name.split("/")
    in_place = folders in ([], ["additional_chat_templates"]) and not last.startswith(".")
    return in_place and any(fnmatchcase(last, kind) for kind in WANTED)


def is_weights(name: str) -> bool:
    """Whether it is one of the large files."""
    return name.endswith(".safetensors")


def hub_file(sibling: Sibling, repository: str) -> HubFile:
    """One file of the answer, checked.

    Raises:
        HubError: its name is no plain file name, or its size or hash is not given.
    """
    shown = f"{repository}: {clean(sibling.name)[:200]!r}"
    try:
        for part in PurePosixPath(sibling.name).parts:
            safe_name(part)
    except InputError:
        raise HubError(f"{shown} is no name for a file here", hint=HOSTILE) from None
    digest = sibling.lfs.sha256 if sibling.lfs else sibling.blob or ""
    if sibling.size is None or sibling.size < 0 or not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", digest):
        raise HubError(f"{shown} comes without a size and a hash to verify it by", hint="choose another repository")
    return HubFile(sibling.name, sibling.size, digest)


def refuse_incomplete(listing: Listing, required: Sequence[str]) -> None:
    """Refuses a repository that cannot give a model folder, before anything is fetched.

    Raises:
        HubError: a required file, the config or the weights are absent, or two names differ only in their case.
    """
    names = [file.name for file in listing.files]
    absent = [name for name in ("config.json", *required) if name not in names]
    if absent:
        hint = "choose a repository that is a model folder, with config.json and safetensors weights"
        raise HubError(f"{listing.repository} has no {absent[0]}", hint=hint)
    if not any(is_weights(name) for name in names):
        hint = "choose one that has; pickles (.bin, .pt) are never read, and GGUF files cannot be trained"
        raise HubError(f"{listing.repository} has no safetensors weights", hint=hint)
    if len({name.casefold() for name in names}) < len(names):
        raise HubError(f"{listing.repository} has two names that differ only in case", hint=HOSTILE)
