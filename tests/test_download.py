"""download_dataset.sh against a local HTTP server with a small archive: resume, checks, no partial results."""

import io
import os
import shutil
import subprocess
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import ROOT

pytestmark = pytest.mark.skipif(not shutil.which("curl") or not shutil.which("bash"), reason="needs bash and curl")
NAMES = {"train": [f"train/a/abbey/{i:08}.jpg" for i in range(6)], "val": [f"val/{i:08}.jpg" for i in range(3)]}
SMALL = {"MINIPLACES_MIN_BYTES": "1000", "MINIPLACES_TRAIN_LINES": "6", "MINIPLACES_VAL_LINES": "3"}


def archive(names=None, top="") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in names or [*NAMES["train"], *NAMES["val"]]:
            content = os.urandom(3000)
            info = tarfile.TarInfo(f"{top}images/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        tar.addfile(tarfile.TarInfo(f"{top}objects/note.xml"))
    return buffer.getvalue()


@pytest.fixture
def server():
    """An HTTP server with range requests; `server.requests` lists the (path, range) of each request."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append((self.path, self.headers.get("Range")))
            content = files.get(self.path.lstrip("/"))
            if content is None:
                self.send_error(404)
                return
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
            ranges = start > 0 and server.ranges
            if ranges and start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if ranges else 200)
            body = content[start:] if ranges else content
            if ranges:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    files, requests = {}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.requests, server.ranges = files, requests, True
    files["data.tar.gz"] = archive()
    for split, names in NAMES.items():
        files[f"{split}.txt"] = "".join(f"{name} 0\n" for name in names).encode()
    files["categories.txt"] = b"/a/abbey 0\n"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def download(server, folder, shell="sh", **environment):
    url = f"http://127.0.0.1:{server.server_port}"
    settings = {**SMALL, "MINIPLACES_ARCHIVE_URL": f"{url}/data.tar.gz", "MINIPLACES_LABELS_URL": url,
                "no_proxy": "127.0.0.1", **environment}
    done = subprocess.run([shell, str(ROOT / "download_dataset.sh"), str(folder)], capture_output=True, text=True,
                          env={**os.environ, **settings}, timeout=60)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize("top", ["", "data/"])
def test_complete_download(server, tmp_path, shell, top):
    server.files["data.tar.gz"] = archive(top=top)
    code, out = download(server, tmp_path, shell)
    assert code == 0, out
    assert {p.name for p in tmp_path.iterdir()} == {"images", "objects", "train.txt", "val.txt", "categories.txt",
                                                    "data.tar.gz"}
    assert all((tmp_path / "images" / name).stat().st_size == 3000 for names in NAMES.values() for name in names)


def test_a_second_run_downloads_nothing(server, tmp_path):
    """Fault 13 of the stock scaffold: it downloaded again what was there, and train.txt.1 appeared."""
    download(server, tmp_path)
    server.requests.clear()
    code, out = download(server, tmp_path)
    assert (code, server.requests) == (0, [])
    assert "nothing to do" in out


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_resumes(server, tmp_path, ranges):
    server.ranges = ranges
    (tmp_path / "data.tar.gz.part").write_bytes(server.files["data.tar.gz"][:5000])
    code, out = download(server, tmp_path)
    assert code == 0, out
    assert ("/data.tar.gz", "bytes=5000-") in server.requests


def test_a_truncated_archive_under_its_final_name_is_completed(server, tmp_path):
    (tmp_path / "data.tar.gz").write_bytes(server.files["data.tar.gz"][:5000])
    code, out = download(server, tmp_path)
    assert code == 0, out
    assert "is not a complete .tar.gz; resuming" in out


@pytest.mark.parametrize(("content", "flaw"), [(b"<html>quota exceeded</html>", "has only 27 bytes"),
                                               (b"x" * 5000, "is not a complete .tar.gz")])
def test_an_error_page_instead_of_the_archive(server, tmp_path, content, flaw):
    server.files["data.tar.gz"] = content
    code, out = download(server, tmp_path)
    assert code == 1
    assert flaw in out
    assert not (tmp_path / "images").exists()
    server.files["data.tar.gz"] = archive()
    assert download(server, tmp_path)[0] == 0


def test_label_files_of_the_wrong_length_are_removed(server, tmp_path):
    server.files["train.txt"] = b"train/a/abbey/00000000.jpg 0\n"
    code, out = download(server, tmp_path)
    assert code == 1
    assert "train.txt has 1 lines instead of 6" in out
    assert not (tmp_path / "train.txt").exists()


def test_missing_images_are_an_error(server, tmp_path):
    server.files["data.tar.gz"] = archive(NAMES["train"])
    code, out = download(server, tmp_path)
    assert code == 1
    assert "images of the label files are missing" in out


def test_without_a_network(server, tmp_path):
    code, out = download(server, tmp_path, MINIPLACES_LABELS_URL="http://127.0.0.1:9")
    assert code == 1
    assert "cannot be downloaded" in out
    assert "Run this again to resume" in out
    assert list(tmp_path.iterdir()) == []


def test_gdown_is_called_and_its_absence_is_an_error(server, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in "bash sh curl tar gzip grep head tail awk wc mv rm mkdir mktemp find dirname cat".split():
        (tools / tool).symlink_to(shutil.which(tool))
    script = tmp_path / "repo" / "download_dataset.sh"
    script.parent.mkdir()
    shutil.copy(ROOT / "download_dataset.sh", script)
    url = f"http://127.0.0.1:{server.server_port}"
    settings = {**SMALL, "PATH": str(tools), "MINIPLACES_LABELS_URL": url}
    done = subprocess.run([str(tools / "bash"), str(script)], capture_output=True, text=True, env=settings)
    assert done.returncode == 1
    assert "gdown is needed to download from Google Drive: pip install gdown" in done.stderr
    (tools / "gdown").write_text(f"#!{tools}/bash\n[ \"$4\" = 16GYHdSWS3iMYwMPv5FpeDZN2rH7PR0F2 ] && "
                                 f"curl -s -o \"$3\" {url}/data.tar.gz\n")
    (tools / "gdown").chmod(0o755)
    done = subprocess.run([str(tools / "bash"), str(script)], capture_output=True, text=True, env=settings)
    assert done.returncode == 0, done.stderr
    assert (script.parent / "data" / "images").is_dir()
