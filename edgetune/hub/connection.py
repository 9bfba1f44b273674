"""Requests to the hub: time limits, tries again where that helps, and every failure as one sentence.

Nothing that a server or a library says reaches a message, so a token cannot: only names, numbers and our own words do.
"""

import os
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from edgetune.errors import HubError

if TYPE_CHECKING:
    from huggingface_hub.utils import httpx

LOOKUP_SECONDS = 1.5  # for a host's address
ANSWER_SECONDS = 10.0  # for a connection, and for each next piece of an answer
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each new try, while nothing arrives
LONGEST_PAUSE = 60.0
CONTINUES = "check the connection; the same command continues where this one stopped"
T = TypeVar("T")


class TryAgain(HubError):
    """A failure that may pass: a dropped connection, a busy server. `pause` is the server's own wish, in seconds."""

    pause: float | None = None


class Unreachable(TryAgain):
    """No connection at all."""


def endpoint() -> str:
    """The hub's address: HF_ENDPOINT, or the public one."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def host() -> str:
    """The hub's name for messages; an address may hold a password, its host name does not."""
    return urlsplit(endpoint()).hostname or "the hub"


def is_offline() -> bool:
    """Whether the environment forbids every call, by huggingface_hub's own switch."""
    return (os.environ.get("HF_HUB_OFFLINE") or "").upper() in ("1", "ON", "YES", "TRUE")


def require_address() -> None:
    """Looks the hub's address up, with a time limit that the system's own look-up does not have.

    Raises:
        HubError: there is none, or nobody answers.
    """
    from urllib.request import getproxies  # here, not above: it loads all of HTTP

    parts = urlsplit(endpoint())
    if getproxies().keys() & {parts.scheme, "all"}:
        return  # the proxy looks it up
    found: list[bool] = []

    def look() -> None:
        try:
            socket.getaddrinfo(parts.hostname, parts.port or 443)
        except (OSError, UnicodeError):
            return
        found.append(True)

    search = Thread(target=look, daemon=True)
    search.start()
    search.join(LOOKUP_SECONDS)
    if not found:
        hint = "connect this machine, or bring a folder from another: `edgetune models import PATH`"
        raise HubError(f"no address is found for {host()}: is this machine online?", hint=hint)


@contextmanager
def answer(url: str, what: str, start: int = 0) -> "Generator[httpx.Response]":
    """The hub's answer to one GET from byte `start` on, to be read piece by piece. `what` names it in errors.

    Raises:
        TryAgain: the connection dropped, or the server is busy.
        HubError: the hub says no.
    """
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, httpx

    headers = build_hf_headers(library_name="edgetune")
    headers["accept-encoding"] = "identity"  # positions and sizes are those of the file
    if start:
        headers["range"] = f"bytes={start}-"
    try:
        with get_session().stream("GET", url, headers=headers, timeout=ANSWER_SECONDS) as reply:
            refuse(reply, what)
            yield reply
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise Unreachable(f"{host()} cannot be reached{certificate(error)}", hint="check the connection") from None
    except (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError):
        raise TryAgain(f"the connection to {host()} was lost at {what}", hint="try again later") from None
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeEncodeError) as error:
        hint = "check HF_ENDPOINT, HF_TOKEN and the proxy settings"
        raise HubError(f"{host()} cannot be asked for {what} ({type(error).__name__})", hint=hint) from None


def certificate(error: Exception) -> str:
    """Says so where the host is there but is not trusted, as behind some networks' sign-in pages."""
    return ": its certificate is not trusted" if "CERTIFICATE" in str(error).upper() else ""


def refuse(reply: "httpx.Response", what: str) -> None:
    """Turns an answer that is not the wanted one into an error.

    Raises:
        TryAgain: the server is busy.
        HubError: it says no, or shows a web page instead.
    """
    status, code = reply.status_code, reply.headers.get("x-error-code", "")
    if status == 429 or status == 408 or status >= 500:
        busy = TryAgain(f"{host()} is busy (status {status})", hint="try again in some minutes")
        busy.pause = seconds(reply.headers.get("retry-after", ""))
        raise busy
    if code == "GatedRepo":
        page = f"{endpoint_without_secrets()}/{what.split(':')[0]}"
        hint = f"accept it at {page}, then set HF_TOKEN to a token of that account"
        raise HubError(f"{what}: its authors ask people to accept a licence first", hint=hint)
    if status in (401, 403):
        hint = "check the spelling; for a private one set HF_TOKEN"
        raise HubError(f"{what} does not exist, or is private", hint=hint)
    if code == "RevisionNotFound":
        raise HubError(f"{what}: no such revision", hint="leave @REVISION out for the newest one")
    if status == 404:
        raise HubError(f"{what} does not exist on {host()}", hint="check the spelling: ORGANISATION/NAME")
    if status not in (200, 206):
        raise HubError(f"{host()} answered with status {status} for {what}", hint="try again later")
    if reply.headers.get("content-type", "").startswith("text/html"):
        hint = "open a browser, sign in to the network, and try again"
        raise HubError(f"a web page came instead of {what}: does this network ask for a sign-in?", hint=hint)


def endpoint_without_secrets() -> str:
    """The hub's address without a user and password in it."""
    parts = urlsplit(endpoint())
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def seconds(text: str) -> float | None:
    """A Retry-After in seconds; the form with a date is left to our own pauses."""
    return min(float(text), LONGEST_PAUSE) if text.isascii() and text.isdigit() else None


def patiently(attempt: Callable[[], T], waiting: Callable[[str], None], arrived: Callable[[], int] | None = None) -> T:
    """Tries until it works, or until len(PAUSES) tries in a row bring nothing.

    `waiting` is told why before every pause. `arrived` counts the bytes so far; without it this is the first contact,
    and an unreachable hub is final.

    Raises:
        HubError: it did not work.
    """
    tries, before = 0, arrived() if arrived else 0
    while True:
        try:
            return attempt()
        except TryAgain as failure:
            now = arrived() if arrived else 0
            tries, before = (0, now) if now > before else (tries, before)
            if tries == len(PAUSES) or (arrived is None and isinstance(failure, Unreachable)):
                raise HubError(failure.message, hint=CONTINUES if arrived else failure.hint) from None
            waiting(failure.message)
            time.sleep(failure.pause if failure.pause is not None else PAUSES[tries])
            tries += 1
