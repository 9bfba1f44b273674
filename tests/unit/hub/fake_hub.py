"""A hub on 127.0.0.1 that can behave badly: it drops connections, is busy, says no, lies, or names hostile files."""

import hashlib
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "tiny/llama"


class Request(NamedTuple):
    """What a client asked for, and how it said who it is."""

    path: str
    start: int
    token: str | None


@dataclass
class Answer:
    """An answer that comes in place of the right one."""

    status: int
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)


class FakeHub(ThreadingHTTPServer):
    """Serves `files` as the repository tiny/llama. Set its attributes to make it misbehave."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = dict(files)
        self.commit = COMMIT
        self.tags = ["license:apache-2.0"]
        self.requests: list[Request] = []
        self.served: Counter[str] = Counter()  # bytes of each file
        self.instead: list[Answer] = []  # answers to the next requests, whatever they are
        self.drop_after: dict[str, list[int]] = {}  # file -> for its next answers, the bytes after which the line is cut
        self.refused: dict[str, Answer] = {}  # file -> the answer in its place
        self.lies: dict[str, bytes] = {}  # file -> what is sent in its place
        self.extra: list[dict[str, Any]] = []  # more entries of the list of files
        self.ignores_ranges = False
        self.pause = 0.0  # seconds after each 64 KiB
        self.storage: str | None = None  # another host that large files are at
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def listing(self) -> dict[str, Any]:
        siblings = [entry(name, content) for name, content in self.files.items()]
        return {"id": REPOSITORY, "sha": self.commit, "tags": self.tags, "siblings": siblings + self.extra}

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is what these tests are about."""


def entry(name: str, content: bytes) -> dict[str, Any]:
    """A file as the hub's API lists it: large files by SHA-256, small ones by git's SHA-1."""
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    large = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    listed: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git}
    return listed | {"lfs": large} if name.endswith((".safetensors", ".model")) else listed


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        hub, path = self.server, unquote(self.path.partition("?")[0])
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        hub.requests.append(Request(path, start, self.headers.get("Authorization")))
        if hub.instead:
            answer = hub.instead.pop(0)
            return self.reply(answer.status, answer.body, answer.headers)
        if path in (f"/api/models/{REPOSITORY}/revision/main", f"/api/models/{REPOSITORY}/revision/{hub.commit}"):
            return self.reply(200, json.dumps(hub.listing()).encode(), {"Content-Type": "application/json"})
        if path.startswith(f"/api/models/{REPOSITORY}/revision/"):
            return self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        name = path.removeprefix(f"/{REPOSITORY}/resolve/{hub.commit}/")
        if name in hub.refused:
            answer = hub.refused[name]
            return self.reply(answer.status, answer.body, answer.headers)
        if name not in hub.files:
            return self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if hub.storage and name.endswith(".safetensors"):
            return self.reply(302, b"", {"Location": f"{hub.storage}{self.path}"})
        self.send_file(name, 0 if hub.ignores_ranges else start)

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def send_file(self, name: str, start: int) -> None:
        hub = self.server
        content = hub.lies.get(name, hub.files[name])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        cuts = hub.drop_after.get(name, [])
        end = start + cuts.pop(0) if cuts else len(content)
        for at in range(start, min(end, len(content)), 1 << 16):
            piece = content[at : min(at + (1 << 16), end)]
            self.wfile.write(piece)
            self.wfile.flush()
            hub.served[name] += len(piece)
            time.sleep(hub.pause)
        if end < len(content):
            self.close_connection = True
            self.connection.shutdown(2)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the tests look at `requests`."""
