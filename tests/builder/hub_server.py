"""A tiny model hub on loopback: what huggingface_hub asks of one, and nothing more."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Hub:
    """Serves the folders in ``models``, by hub id, at one commit each.

    ``requests`` are the method and path of each request, ``agents`` the clients' own names.
    """

    def __init__(self, models: dict[str, Path], commit: str, tags: tuple[str, ...] = ()) -> None:
        self.models = models
        self.commit = commit
        self.revisions = {"main", commit, *tags}
        self.requests: list[str] = []
        self.agents: set[str] = set()

    @contextmanager
    def serving(self, port: int) -> Iterator[None]:
        server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.requests.append(f"{self.command} {self.path}")
                hub.agents.add(self.headers.get("User-Agent", ""))
                parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
                if parts[:2] == ["api", "models"]:
                    self._describe("/".join(parts[2:4]), parts[4:])
                elif len(parts) > 4 and parts[2] == "resolve":
                    self._send_file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
                else:
                    self._error("EntryNotFound", "no such page")

            do_HEAD = do_GET  # noqa: N815

            def _describe(self, name: str, rest: list[str]) -> None:
                if name not in hub.models:
                    return self._error("RepoNotFound", "no such model")
                if rest and rest[-1] not in hub.revisions:
                    return self._error("RevisionNotFound", "no such revision")
                files = sorted(p for p in hub.models[name].rglob("*") if p.is_file())
                names = [path.relative_to(hub.models[name]).as_posix() for path in files]
                if rest[:1] == ["tree"]:
                    listing: object = [
                        {"type": "file", "path": n, "size": p.stat().st_size, "oid": _oid(p)}
                        for n, p in zip(names, files, strict=True)
                    ]
                else:
                    siblings = [{"rfilename": n} for n in names]
                    listing = {"id": name, "sha": hub.commit, "siblings": siblings}
                return self._send(json.dumps(listing).encode(), {})

            def _send_file(self, name: str, revision: str, path: str) -> None:
                file = hub.models.get(name, Path("none")) / path
                if revision not in hub.revisions or not file.is_file():
                    return self._error("EntryNotFound", "no such file")
                headers = {"ETag": f'"{_oid(file)}"', "X-Repo-Commit": hub.commit}
                return self._send(file.read_bytes(), headers)

            def _send(self, body: bytes, headers: dict[str, str], status: int = 200) -> None:
                self.send_response(status)
                for key, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def _error(self, code: str, text: str) -> None:
                self._send(b"", {"X-Error-Code": code, "X-Error-Message": text}, 404)

            def log_message(self, *args: object) -> None:
                pass

        return Handler


def _oid(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
