"""Pictures named by an address: never asked for unless allowed, and then of public hosts alone."""

from __future__ import annotations

import hashlib
import io
import ipaddress
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from mlflow import MlflowClient
from PIL import Image

from tests.helpers import FAULTY, composed, make_data, write_table
from vlm_eval import config, images
from vlm_eval.errors import BadInput
from vlm_eval.tasks import remote_images

LIMIT = 50_000_000


def picture(colour: str = "red") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(out, "PNG")
    return out.getvalue()


class Handler(BaseHTTPRequestHandler):
    """What stands at a path of the server below; every request is counted."""

    def do_GET(self):
        self.server.asked.append((self.path, dict(self.headers)))
        status, headers, body = self.server.gives[self.path.partition("?")[0]]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            for piece in body if isinstance(body, list) else [body]:
                self.wfile.write(piece)
                self.wfile.flush()
                time.sleep(0.2 if isinstance(body, list) else 0)
        except OSError:
            pass  # cut off by the other side

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A real server on loopback, and an empty cache."""
    monkeypatch.setenv("VLM_EVAL_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # is not asked
    remote_images.fetch.cache_clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.gives = [], {"/a.png": (200, {}, picture())}
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def loopback_is_public(monkeypatch):
    """The one patch: what would be refused is let through, so that there is something to fetch."""
    real = remote_images.is_public
    monkeypatch.setattr(remote_images, "is_public", lambda address: str(address) == "127.0.0.1" or real(address))


def refused(url: str) -> str:
    with pytest.raises(BadInput) as error:
        remote_images.fetch(url, LIMIT)
    assert str(error.value).isprintable()
    return str(error.value)


# ---------------------------------------------------------------------------------------------------------- off and on


def items_of(tmp_path, url: str, *more: str):
    root = make_data(tmp_path / "data", 1)
    write_table(root / "items.csv", [{"item_id": "a", "image": url, "question": "Что это?", "reference": "Чат"}])
    cfg = composed("task=vqa", f"task.data.root={root}", "judge=none", *more)
    return config.build(cfg.task).items()


def test_off_by_default(tmp_path, server, loopback_is_public):
    for url in (f"{server.url}/a.png", f"HTTP{server.url[4:]}/a.png"):
        with pytest.raises(BadInput, match="nothing is fetched unless task.data.allow_urls=true"):
            items_of(tmp_path / url[:4], url)
    assert server.asked == []


def test_on_by_an_option(tmp_path, server, loopback_is_public):
    [item] = items_of(tmp_path, f"{server.url}/a.png", "task.data.allow_urls=true")
    assert (item.width, item.height) == (8, 6) and item.error is None
    assert item.image_sha256 == hashlib.sha256(picture()).hexdigest()
    assert item.cluster == remote_images.shown_name(item) == f"{server.url}/a.png"
    assert len(server.asked) == 1


def test_on_and_still_not_from_this_machine(tmp_path, server):
    with pytest.raises(BadInput, match="127.0.0.1 is 127.0.0.1, which is no public address.*row 2"):
        items_of(tmp_path, f"{server.url}/a.png", "task.data.allow_urls=true")
    assert server.asked == []


def test_a_run_takes_it_from_the_cache_and_mlflow_has_it(vlm_eval_cli, tmp_path, server, loopback_is_public):
    """The pre-flight fetches; the run is a process of its own, in which nothing is patched."""
    root = make_data(tmp_path / "data", 1)
    url = f"{server.url}/a.png"
    write_table(root / "items.csv", [{"item_id": "a", "image": url, "question": "Что это?", "reference": "Чат"}])
    ended = vlm_eval_cli(
        *FAULTY, "task=vqa", f"task.data.root={root}", "task.data.allow_urls=true", "judge=none", "metrics=tech"
    )
    assert ended.code == 0 and len(server.asked) == 1, ended
    [run] = (tmp_path / "cwd" / "multirun").glob("*/*/status.json")
    run_id = json.loads(run.read_text())["mlflow_run_id"]
    client = MlflowClient(f"sqlite:///{tmp_path}/cwd/mlruns/mlflow.db")
    [kept] = client.list_artifacts(run_id, "screenshots/fetched")
    assert kept.path.endswith(".png")


# ------------------------------------------------------------------------------------- refused, with nothing patched


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.1", "0x7f.1", "0177.0.0.1", "2130706433", "0x7f000001", "0.0.0.0", "0", "127.8.8.8"),
        *("localhost", "LOCALHOST", "localhost.", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"),
        *("[::127.0.0.1]", "[64:ff9b::127.0.0.1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "①②⑦.0.0.1"),
        *("10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254", "0xa9fea9fe", "198.18.0.1"),
        *("224.0.0.1", "255.255.255.255", "192.0.2.1", "240.0.0.1", "[fe80::1]", "[fd00:ec2::254]", "[fc00::1]"),
        *("[ff02::1]", "[fec0::1]", "[2001:db8::1]"),
    ],
)
def test_no_host_of_ones_own_network(server, monkeypatch, host):
    monkeypatch.setattr(remote_images, "_connect", lambda *_: pytest.fail("a connection was made"))
    said = refused(f"http://{host}:{server.server_port}/a.png")
    assert "which is no public address" in said or "Name or service not known" in said or "not supported" in said, said
    assert server.asked == []


@pytest.mark.parametrize("host", ["127.0.0.1", "0x7f.1", "localhost", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]"])
def test_those_hosts_are_known_to_the_resolver(host):
    """So that the refusals above are ours, and not a name that nobody knows."""
    with pytest.raises(BadInput, match="which is no public address"):
        remote_images.public_addresses(host.strip("[]"), 80)


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "1.1.1.1",
        "93.184.216.34",
        "2606:4700:4700::1111",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2002:808:808::",
    ],
)
def test_public_addresses(address):
    assert remote_images.is_public(ipaddress.ip_address(address))


def test_one_address_of_a_host_that_is_not_public_is_enough(monkeypatch):
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 80)) for a in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    with pytest.raises(BadInput, match="two.example is 10.0.0.1, which is no public address"):
        remote_images.public_addresses("two.example", 80)


def test_a_name_is_resolved_once_and_the_connection_goes_to_what_was_looked_at(server, monkeypatch, loopback_is_public):
    """Or the name could be public when looked at and 127.0.0.1 when connected to."""
    answers = ["127.0.0.1", "10.0.0.1"]
    resolved = []

    def getaddrinfo(host, port, *_, **__):
        if host == "rebound.example":
            resolved.append(host)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers[len(resolved) - 1], port))]
        return real(host, port, *_, **__)

    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert remote_images.fetch(f"http://rebound.example:{server.server_port}/a.png", LIMIT).is_file()
    [(_, headers)] = server.asked
    assert resolved == ["rebound.example"] and headers["Host"] == f"rebound.example:{server.server_port}"


# ------------------------------------------------------------------------------------------------------------ redirects


@pytest.fixture
def only_by_that_name(server, monkeypatch):
    """public.example is the server below, by a resolver of ours; 127.0.0.1 in an address stays refused."""
    real_lookup, real_check = remote_images.public_addresses, remote_images.is_public
    monkeypatch.setattr(
        remote_images,
        "public_addresses",
        lambda host, port: ["127.0.0.1"] if host == "public.example" else real_lookup(host, port),
    )
    assert not real_check(ipaddress.ip_address("127.0.0.1"))
    return f"http://public.example:{server.server_port}"


@pytest.mark.parametrize("status", remote_images.REDIRECTS)
@pytest.mark.parametrize(
    "place", ["http://127.0.0.1:{port}/secret", "http://localhost:{port}/secret", "//[::1]:{port}/secret"]
)
def test_a_redirect_into_ones_own_network(server, only_by_that_name, status, place):
    server.gives["/there"] = (status, {"Location": place.format(port=server.server_port)}, b"")
    said = refused(f"{only_by_that_name}/there")
    assert "which is no public address" in said and "/secret)" in said
    assert [path for path, _ in server.asked] == ["/there"]


@pytest.mark.parametrize("place", ["file:///etc/hostname", "ftp://public.example/a.png", "gopher://127.0.0.1/"])
def test_a_redirect_to_another_scheme(server, only_by_that_name, place):
    server.gives["/there"] = (302, {"Location": place}, b"")
    assert "only http and https are fetched" in refused(f"{only_by_that_name}/there")


def test_a_redirect_that_is_followed_and_one_that_goes_on_for_ever(server, only_by_that_name):
    server.gives["/there"] = (302, {"Location": "a.png"}, b"")
    server.gives["/round"] = (302, {"Location": "/round"}, b"")
    assert remote_images.fetch(f"{only_by_that_name}/there", LIMIT).read_bytes() == picture()
    assert "more than 3 redirects" in refused(f"{only_by_that_name}/round")


# ------------------------------------------------------------------------------------------------ what the server gives


def test_what_is_no_picture_is_refused_and_not_kept(server, loopback_is_public, tmp_path):
    server.gives |= {
        "/svg": (200, {}, b"<svg xmlns='a'/>"),
        "/gone": (404, {}, b""),
        "/cut": (200, {"Content-Length": "9"}, b"a"),
    }
    assert "it is a SVG drawing" in refused(f"{server.url}/svg")
    assert "the server answered 404" in refused(f"{server.url}/gone")
    assert "cannot be fetched" in refused(f"{server.url}/cut")
    assert not list((tmp_path / "cache" / "images").glob("*"))


def test_too_much_and_too_slow(server, loopback_is_public, monkeypatch):
    server.gives |= {"/much": (200, {}, b"a" * 2_000_001), "/slow": (200, {}, [b"a"] * 50)}
    monkeypatch.setattr(remote_images, "MOST_BYTES", 2_000_000)
    monkeypatch.setattr(remote_images, "MOST_SECONDS", 1.0)
    began = time.monotonic()
    assert "more than 2 MB" in refused(f"{server.url}/much")
    assert "within 1 s" in refused(f"{server.url}/slow")
    assert time.monotonic() - began < 4


def test_a_password_in_an_address(server, loopback_is_public):
    said = refused(f"http://me:word@127.0.0.1:{server.server_port}/a.png")
    assert "a name or password in an address" in said and server.asked == []


@pytest.mark.parametrize(
    "url", ["http://", "http://:80/", "http://[/", "http://a:b/", "http://\ud800/", "http://a b/\r\nX: y"]
)
def test_what_is_no_address(server, url):
    assert "cannot be fetched" in refused(url)


def test_nothing_of_an_address_becomes_a_header(server, loopback_is_public):
    remote_images.fetch(f"{server.url}/a.png?x=\r\nX-Evil: 1\r\n\r\nключ", LIMIT)
    [(path, headers)] = server.asked
    assert "X-Evil" not in headers and "%D0%BA" in path


def test_kept_as_it_was(server, loopback_is_public):
    file = remote_images.fetch(f"{server.url}/a.png", LIMIT)
    server.gives["/a.png"] = (200, {}, picture("blue"))
    remote_images.fetch.cache_clear()  # as in another process
    assert remote_images.fetch(f"{server.url}/a.png", LIMIT) == file and file.read_bytes() == picture()
    assert len(server.asked) == 1 and images.check(file, LIMIT)["width"] == 8
