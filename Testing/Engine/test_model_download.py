"""Downloads over a real HTTP server on this machine: whole, resumed, stopped, damaged, absent."""

from __future__ import annotations

import errno
import hashlib
import http.client
import http.server
import io
import threading
import urllib.request

import numpy as np
import pytest

from RefSAM3DLib.errors import Cancelled, CheckpointError, OutputError
from RefSAM3DLib.model_download import STEP_BYTES, download

CONTENT = np.random.default_rng(0).integers(0, 256, 5 * STEP_BYTES + 123).astype(np.uint8).tobytes()
SHA = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT with or without ranges."""

    ranges = True
    requests: list = []  # noqa: RUF012

    def do_GET(self):
        if "missing" in self.path:
            self.send_error(404)
            return
        asked = self.headers.get("Range")
        self.requests.append(asked)
        start = int(asked[6:-1]) if asked and self.ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start:])

    def log_message(self, *_arguments):
        pass


@pytest.fixture
def url():
    Handler.ranges, Handler.requests = True, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/model.safetensors"
    server.shutdown()
    server.server_close()


def test_a_file_arrives_whole_and_checked(url, tmp_path):
    seen = []
    path = download(url, tmp_path / "ä model" / "m.safetensors", len(CONTENT), SHA, lambda f, s: seen.append(f))
    assert path.read_bytes() == CONTENT
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert [p.name for p in path.parent.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_stopped_download_is_continued_or_begun_anew(url, tmp_path, ranges):
    target = tmp_path / "m.safetensors"
    steps = []
    with pytest.raises(Cancelled):
        download(url, target, len(CONTENT), SHA, cancel=lambda: steps.append(1) or len(steps) > 2)
    assert not target.exists()
    kept = (tmp_path / "m.safetensors.part").stat().st_size
    assert 0 < kept < len(CONTENT)
    Handler.ranges = ranges
    assert download(url, target, len(CONTENT), SHA).read_bytes() == CONTENT
    assert Handler.requests == [None, f"bytes={kept}-"]


def test_wrong_content_is_refused_and_removed(url, tmp_path):
    with pytest.raises(CheckpointError, match="checksum"):
        download(url, tmp_path / "m", len(CONTENT), "0" * 64)
    with pytest.raises(CheckpointError, match="size or checksum"):
        download(url, tmp_path / "m", len(CONTENT) - 1, SHA)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CheckpointError, match="stopped at"):
        download(url, tmp_path / "m", len(CONTENT) + 1, SHA)


def test_absent_server_absent_file_full_disk_and_read_only_folder(url, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="From file"):
        download("http://127.0.0.1:9/x", tmp_path / "m", 10, SHA)
    with pytest.raises(CheckpointError, match="Not Found"):
        download(url + "/missing", tmp_path / "m", 10, SHA)
    with pytest.raises(OutputError, match="free some disk space"):
        download(url, tmp_path / "m", 10**18, SHA)

    def full(*_arguments, **_keywords):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", full)
        with pytest.raises(OutputError, match="No space left"):
            download(url, tmp_path / "m", len(CONTENT), SHA)


class Broken(io.BytesIO):
    """An answer whose connection breaks after its first step."""

    def __init__(self, error):
        super().__init__(CONTENT)
        self.error = error

    def read(self, size=-1):
        if self.tell():
            raise self.error
        return super().read(size)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), r"broke \(Connection reset by peer\); try again, the part"),
        (http.client.IncompleteRead(b"abc", 9), r"broke \(IncompleteRead\(3 bytes read, 9 more expected\)\); try again"),
        (TimeoutError("timed out"), "did not answer within 30 s"),
    ],
)
def test_broken_connection_is_no_full_disk_and_is_continued(url, tmp_path, error, words):
    with pytest.raises(CheckpointError, match=words):
        download(url, tmp_path / "m", len(CONTENT), SHA, opener=lambda request: Broken(error))
    assert (tmp_path / "m.part").stat().st_size == STEP_BYTES
    assert download(url, tmp_path / "m", len(CONTENT), SHA).read_bytes() == CONTENT
    assert Handler.requests == [f"bytes={STEP_BYTES}-"]


def test_server_that_hangs_up_before_it_answers_is_no_full_disk(tmp_path):
    def opener(request):
        raise http.client.RemoteDisconnected("Remote end closed connection without response")

    with pytest.raises(CheckpointError, match=r"broke \(Remote end closed connection without response\)"):
        download("http://127.0.0.1:9/x", tmp_path / "m", len(CONTENT), SHA, opener=opener)


def test_only_the_given_address_is_asked_and_nothing_about_the_user_is_sent(url, tmp_path):
    asked = []

    def opener(request):
        asked.append(dict(request.header_items()))
        return urllib.request.urlopen(request)

    download(url, tmp_path / "m", len(CONTENT), SHA, opener=opener)
    assert asked == [{"User-agent": "RefSAM3D"}]


def test_schema_and_reader_know_the_same_keys():
    import dataclasses
    import json

    from RefSAM3DLib.models_registry import ModelEntry, read_registry
    from RefSAM3DLib.resources import resource_path

    schema = json.loads(resource_path("Models", "models.schema.json").read_text(encoding="utf-8"))["items"]
    names = [field.name for field in dataclasses.fields(ModelEntry)]
    assert sorted(schema["properties"]) == sorted(schema["required"]) == sorted(names)
    if (resource_path("Models") / "models.json").is_file():
        assert all(entry.size_bytes > 0 for entry in read_registry())
