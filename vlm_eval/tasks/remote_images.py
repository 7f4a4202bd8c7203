"""Pictures that a table names by their address (task.data.allow_urls=true): each fetched once, from public hosts alone.

A table comes from elsewhere, and its addresses must not make this machine ask its own network. So each name is resolved
once, all its addresses are looked at, and the connection goes to one of these very addresses; every redirect is treated
alike. No proxy, no cookie, no password.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.client
import ipaddress
import os
import re
import socket
import ssl
import tempfile
import threading
import time
from pathlib import Path
from typing import Iterator, Union
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from vlm_eval import images, paths
from vlm_eval.errors import BadInput
from vlm_eval.rows import Item

MOST_BYTES = 20_000_000
MOST_SECONDS = 20.0  # for a picture with all its redirects
MOST_REDIRECTS = 3
REDIRECTS = (301, 302, 303, 307, 308)
PORTS = {"http": 80, "https": 443}
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # IPv4 in the last four bytes
Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]


def is_url(name: str) -> bool:
    return re.match(r"(?i)https?://", name) is not None


def shown_name(item: Item) -> str:
    """What a report calls an item's picture: of a fetched one its address, not where this machine keeps it."""
    return item.cluster if is_url(item.cluster) else item.image


@functools.cache  # every point of a sweep asks
def fetch(url: str, pixel_limit: int) -> Path:
    """The file of an address in the cache, which is asked before the network; BadInput says why there is none.

    Its name is made of the address and the content: what a run was made from stays what it was, whatever the server
    gives out later."""
    folder = paths.cache() / "images"
    name = hashlib.sha256(url.encode("utf-8", "backslashreplace")).hexdigest()[:16]
    if known := sorted(folder.glob(f"{name}-*")):
        return known[0]
    content = _download(url)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as beside:
        file = Path(beside) / "content"
        file.write_bytes(content)
        try:
            images.check(file, pixel_limit)
            with images.opened(file) as picture:
                ending = picture.format.lower()
        except BadInput as error:
            raise BadInput(f"{url}: {str(error).removeprefix(f'{file}: ')}") from error
        target = folder / f"{name}-{hashlib.sha256(content).hexdigest()[:16]}.{ending}"
        os.replace(file, target)
    return target


def _download(url: str) -> bytes:
    deadline = time.monotonic() + MOST_SECONDS
    asked = url
    try:
        for _ in range(MOST_REDIRECTS + 1):
            parts = _checked(asked)
            with _connected(parts, deadline) as connection:
                connection.request("GET", _target(parts), headers={"Accept": "image/*", "Accept-Encoding": "identity"})
                response = connection.getresponse()
                if response.status in REDIRECTS and (place := response.getheader("Location")):
                    asked = urljoin(asked, place)
                    continue
                if response.status != 200:
                    raise BadInput(f"the server answered {response.status} {response.reason}")
                content = response.read(MOST_BYTES + 1)
                if len(content) > MOST_BYTES:
                    raise BadInput(f"more than {MOST_BYTES // 1_000_000} MB")
                if time.monotonic() > deadline or response.length:  # cut off, by us or by the server
                    raise BadInput(f"not all of it came within {MOST_SECONDS:g} s")
                return content
        raise BadInput(f"more than {MOST_REDIRECTS} redirects")
    except BadInput as error:
        raise BadInput(f"{url}: cannot be fetched: {error}" + (f" (at {asked})" if asked != url else "")) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = f"not done within {MOST_SECONDS:g} s" if time.monotonic() > deadline else error or type(error).__name__
        raise BadInput(f"{url}: cannot be fetched: {why}") from error


def _checked(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in PORTS:
        raise BadInput(f"{parts.scheme or 'no scheme'}: only http and https are fetched")
    if parts.username is not None or parts.password is not None:
        raise BadInput("a name or password in an address would stand in every file of the run")
    if not parts.hostname:
        raise BadInput("no host in the address")
    return parts


@contextlib.contextmanager
def _connected(parts: SplitResult, deadline: float) -> Iterator[http.client.HTTPConnection]:
    """A connection to a public address of the host, cut at the deadline however slowly something still comes."""
    host = parts.hostname.encode("idna").decode() if not parts.hostname.isascii() else parts.hostname
    port = parts.port or PORTS[parts.scheme]
    plain = _connect(public_addresses(host, port), port, deadline)
    cut = threading.Timer(max(0.0, deadline - time.monotonic()), _shut, [plain])
    cut.start()
    connection = http.client.HTTPConnection(host, port)
    try:
        # The certificate is the name's, whatever the address.
        encrypted = parts.scheme == "https"
        connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host) if encrypted else plain
        yield connection
    finally:
        cut.cancel()
        connection.close()
        plain.close()


def _connect(addresses: list[str], port: int, deadline: float) -> socket.socket:
    failed: OSError = OSError("no address")
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout=max(0.1, deadline - time.monotonic()))
        except OSError as error:
            failed = error
    raise failed


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def public_addresses(host: str, port: int) -> list[str]:
    """The addresses of a host, in any spelling that the system's resolver takes (0x7f.1, 2130706433); BadInput unless
    all are public: one that is not is either a mistake or a trick."""
    found = dict.fromkeys(entry[4][0] for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    for address in found:
        if not is_public(ipaddress.ip_address(address)):
            raise BadInput(f"{host} is {address}, which is no public address")
    return list(found)


def is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if address in NAT64:
            inside = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inside:  # an IPv4 address by another name
            return is_public(inside)
        if address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _target(parts: SplitResult) -> str:
    """Path and query as they are sent: other letters than ASCII percent-encoded, what is encoded left as it is."""
    query = f"?{parts.query}" if parts.query else ""
    return quote(f"{parts.path or '/'}{query}", safe="%/:=&?~#+!$,;'@()*[]")
