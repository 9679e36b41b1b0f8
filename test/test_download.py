"""`scenegen download` against a server that speaks like the hub, on this machine."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from scenegen.client import ServerError
from scenegen.commands.download import HuggingFace, Repository, download
from scenegen.scene import InvalidInput

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORIES = (
    Repository("makers/Scenes", ".", ("pipeline.json", "ckpts/*"), "MIT"),
    Repository("others/Encoder", "Encoder", ("config.json", "model.safetensors"), "Apache-2.0"),
)


class Hub(ThreadingHTTPServer):
    def __init__(self, files: dict[str, dict[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories = files
        self.claimed: dict[str, str] = {}
        self.cut: set[str] = set()
        self.fetched: list[tuple[str, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/models/"):
            owner, name, *_ = path.removeprefix("/api/models/").split("/")
            self.send_info(f"{owner}/{name}")
        else:
            owner, name, _, _, *rest = path.strip("/").split("/")
            self.send_file(f"{owner}/{name}", "/".join(rest))

    def send_info(self, repository: str) -> None:
        files = self.server.repositories.get(repository)
        if files is None:
            return self.answer(b"{}", 404, {"X-Error-Code": "RepoNotFound"})
        siblings = [
            {
                "rfilename": path,
                "size": len(content),
                "blobId": "b" * 40,
                "lfs": {"sha256": self.sha256(path, content), "size": len(content), "pointerSize": 134},
            }
            for path, content in files.items()
        ]
        body = {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings, "tags": []}
        self.answer(json.dumps(body).encode(), 200, {"Content-Type": "application/json"})

    def sha256(self, path: str, content: bytes) -> str:
        return self.server.claimed.get(path) or hashlib.sha256(content).hexdigest()

    def send_file(self, repository: str, path: str) -> None:
        content = self.server.repositories[repository][path]
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        asked = self.headers.get("Range")
        if self.command == "GET":
            self.server.fetched.append((path, asked))
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.answer(content[start:], 206 if asked else 200, headers, cut=path in self.server.cut)

    def answer(self, body: bytes, status: int, headers: dict[str, str], cut: bool = False) -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body)), "Accept-Ranges": "bytes"}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: len(body) // 2] if cut else body)
            if cut:
                self.close_connection = True


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    torch.save({"weight": torch.arange(6.0)}, tmp_path / "flow.pt")
    server = Hub(
        {
            "makers/Scenes": {
                "pipeline.json": b"{}",
                "README.md": b"not wanted",
                "ckpts/flow.json": b"{}",
                "ckpts/flow.pt": (tmp_path / "flow.pt").read_bytes(),
            },
            "others/Encoder": {"config.json": b"{}", "model.safetensors": save({"a": torch.zeros(500_000)})},
        }
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def fetch(hub: Hub, folder: Path, **options: object) -> Path | None:
    options.setdefault("confirm", None)
    return download(HuggingFace(hub.address), folder, repositories=REPOSITORIES, **options)  # type: ignore[arg-type]


def test_all_is_fetched_checked_recorded_and_the_pickle_converted(hub: Hub, tmp_path: Path) -> None:
    shown: list[str] = []
    folder = tmp_path / "full"
    assert fetch(hub, folder, confirm=lambda lines: bool(shown.extend(lines) or True)) == folder
    assert "MIT" in shown[1] and "Apache-2.0" in shown[2] and COMMIT[:12] in shown[1] and "GB" in shown[2]
    assert (load_file(folder / "ckpts/flow.safetensors")["weight"] == torch.arange(6.0)).all()
    assert not (folder / "ckpts/flow.pt").exists() and not (folder / "README.md").exists()
    record = json.loads((folder / "download.json").read_text())
    assert record["others/Encoder"]["commit"] == COMMIT
    content = hub.repositories["others/Encoder"]["model.safetensors"]
    assert record["others/Encoder"]["files"]["model.safetensors"]["sha256"] == hashlib.sha256(content).hexdigest()

    hub.fetched.clear()
    assert fetch(hub, folder, confirm=lambda lines: False) == folder
    assert hub.fetched == []
    (folder / "Encoder/config.json").unlink()
    assert fetch(hub, folder) == folder
    assert [path for path, _ in hub.fetched] == ["config.json"]


def test_what_was_cut_short_goes_on_where_it_stopped(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100_000)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    hub.cut.add("model.safetensors")
    with pytest.raises(ServerError, match="others/Encoder can't be fetched"):
        fetch(hub, tmp_path / "full")
    hub.cut.clear()
    hub.fetched.clear()
    assert fetch(hub, tmp_path / "full")
    assert [path for path, _ in hub.fetched] == ["model.safetensors"]
    assert hub.fetched[0][1] is not None, "the second attempt asks for the rest only"
    content = hub.repositories["others/Encoder"]["model.safetensors"]
    assert (tmp_path / "full/Encoder/model.safetensors").read_bytes() == content


def test_a_file_that_is_not_what_the_hub_says_is_removed(hub: Hub, tmp_path: Path) -> None:
    hub.claimed["model.safetensors"] = "f" * 64
    with pytest.raises(InvalidInput, match="model.safetensors has SHA-256"):
        fetch(hub, tmp_path / "full")
    assert not (tmp_path / "full/Encoder/model.safetensors").exists()


def test_nothing_is_fetched_without_consent_or_from_nowhere(hub: Hub, tmp_path: Path) -> None:
    assert fetch(hub, tmp_path / "full", confirm=lambda lines: False) is None
    assert not (tmp_path / "full").exists() and hub.fetched == []
    del hub.repositories["others/Encoder"]
    with pytest.raises(ServerError, match="others/Encoder can't be fetched"):
        fetch(hub, tmp_path / "full")
