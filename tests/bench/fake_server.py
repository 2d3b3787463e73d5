# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fake mesh on the wire: HTTPS with kept connections, and port-forwards over WebSocket, on the loopback interface.

A process of its own, so that what it costs is not taken for ours. ``/fake/...`` is for the bench: what was asked, when
the proxies take a change, which VirtualService was patched when.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import ipaddress
import json
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ansible_collections.progressive.istio.tests.bench.fake_mesh import NAMESPACE, Json, Mesh, Refused, Size

CHUNK = 32768  # bytes of a frame at most: as the kubelet copies them
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # of RFC 6455
BINARY, CLOSE, PING = 2, 8, 9
MODULE = "ansible_collections.progressive.istio.tests.bench.fake_server"
NOT_INSTALLED = ("/apis/flagger.app/", "/apis/argoproj.io/")


class Server:
    """One mesh, served."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.asked: Counter[str] = Counter()  # requests by kind
        self.sent: Counter[str] = Counter()  # bytes of bodies by kind
        self.patches: list[tuple[float, str]] = []

    # ------------------------------------------------------------ HTTP

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until it ends."""
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                method, target, headers = parsed(await reader.readuntil(b"\r\n\r\n"))
                if headers.get("upgrade", "").lower() == "websocket":
                    await self._forward(target, headers, reader, writer)
                    break
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                status, answer = self.answer(method, target, body)
                writer.write(response(status, answer))
                await writer.drain()
        writer.close()

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        """(status, body) of a request to the API server."""
        parts = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if parts.path.startswith("/fake/"):
            return 200, json.dumps(self._control(parts.path, query)).encode()
        kind, name = kind_of(method, parts.path)
        self.asked[kind] += 1
        try:
            answer = self._api(method, parts.path, name, query, body)
        except Refused as error:
            return error.status, json.dumps({"kind": "Status", "message": str(error)}).encode()
        self.sent[kind] += len(answer)
        return 201 if method == "POST" else 200, answer

    def _api(self, method: str, path: str, name: str, query: Mapping[str, str], body: bytes) -> bytes:
        if path.startswith(NOT_INSTALLED):
            raise Refused(404, "the server could not find the requested resource")
        if path == "/version":
            return b'{"gitVersion": "v1.36.3"}'
        if path.endswith("/selfsubjectaccessreviews"):
            return b'{"status": {"allowed": true}}'
        if method != "GET":
            now = time.time()
            done = self.mesh.write(method, path, json.loads(body), now)
            if method == "PATCH":
                self.patches.append((now, name))
            return json.dumps(done, separators=(",", ":")).encode()
        if not name:
            return self.mesh.list(path, query.get("labelSelector", ""))
        found = self.mesh.get(path)
        if found is None:
            raise Refused(404, f"{path} not found")
        return json.dumps(found, separators=(",", ":")).encode()

    def _control(self, path: str, query: Mapping[str, str]) -> Any:
        if path == "/fake/arrivals":
            return self.mesh.arrivals(query["service"])
        if path == "/fake/patches":
            return self.patches
        return {"asked": self.asked, "sent": self.sent, "cpu": time.process_time()}

    # ------------------------------------------------------------ port-forward

    async def _forward(
        self, target: str, headers: Mapping[str, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """WebSocket with two channels, data and errors, each of which begins with the number of the port."""
        self.asked["portforward"] += 1
        parts = urlsplit(target)
        pod = parts.path.split("/")[-2]
        port = int(parse_qs(parts.query)["ports"][0])
        accept = base64.b64encode(hashlib.sha1(headers["sec-websocket-key"].encode() + GUID).digest()).decode()
        lines = ("HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade")
        more = (f"Sec-WebSocket-Accept: {accept}", "Sec-WebSocket-Protocol: v4.channel.k8s.io")
        number = port.to_bytes(2, "little")
        writer.write("\r\n".join((*lines, *more, "", "")).encode() + frame(b"\0" + number) + frame(b"\1" + number))
        asked = b""
        while True:
            opcode, data = await read_frame(reader)
            if opcode == CLOSE:
                return
            if opcode != BINARY:
                continue
            asked += data[1:]
            while b"\r\n\r\n" in asked:
                head, _sep, asked = asked.partition(b"\r\n\r\n")
                answer = response(200, self.admin(pod, parsed(head)[1]))
                for start in range(0, len(answer), CHUNK):
                    writer.write(frame(b"\0" + answer[start : start + CHUNK]))
                await writer.drain()

    def admin(self, pod: str, target: str) -> bytes:
        """What a pod's port answers: an Envoy's admin interface, or an istiod's debug interface."""
        parts = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        proxy, now = self.mesh.names.get(pod, 0), time.time()
        if parts.path == "/config_dump":
            kind, answer = "config_dump", self.mesh.routes(proxy, now)
        elif parts.path == "/clusters":
            pattern = query["filter"]
            kind = "clusters, inbound" if "inbound" in pattern else "clusters"
            answer = self.mesh.clusters(proxy, pattern, now)
        elif parts.path == "/debug/syncz":
            kind, answer = "syncz", self.mesh.syncz(now)
        else:  # Istio's stats matcher leaves these counters out, unless the mesh is told otherwise
            kind, answer = "stats", b""
        self.asked[kind] += 1
        self.sent[kind] += len(answer)
        return answer


def parsed(head: bytes) -> tuple[str, str, dict[str, str]]:
    """(method, target, headers by lower-case name) of a request's head."""
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    method, target, _version = first.split(" ")
    pairs = (line.partition(":") for line in lines)
    return method, target, {name.lower(): value.strip() for name, _colon, value in pairs}


def kind_of(method: str, path: str) -> tuple[str, str]:
    """(``list pods``, name or empty) of a request."""
    parts = path.strip("/").split("/")
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        rest = rest[2:]
    name = rest[1] if len(rest) > 1 else ""
    verb = {"GET": "get" if name else "list", "POST": "create", "PUT": "update", "PATCH": "patch"}[method]
    return f"{verb} {rest[0] if rest else parts[0]}", name


def response(status: int, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} {'OK' if status < 400 else 'No'}\r\nContent-Type: application/json\r\n"
    return f"{head}Date: {formatdate(usegmt=True)}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def frame(data: bytes) -> bytes:
    """One unmasked binary frame, as servers send them."""
    head, size = bytes([0x80 | BINARY]), len(data)
    if size < 126:
        return head + bytes([size]) + data
    if size < 1 << 16:
        return head + bytes([126]) + size.to_bytes(2, "big") + data
    return head + bytes([127]) + size.to_bytes(8, "big") + data


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """(opcode, payload) of a client's frame, which is masked."""
    first, second = await reader.readexactly(2)
    size = second & 0x7F
    if size >= 126:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    mask = await reader.readexactly(4)
    data = await reader.readexactly(size)
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    return first & 0x0F, (int.from_bytes(data, "big") ^ key).to_bytes(size, "big")


# ---------------------------------------------------------------- a process of its own


def certificate(folder: Path) -> tuple[Path, Path]:
    """(certificate, key) of a server on the loopback interface, in files."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fake")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    files = folder / "fake.crt", folder / "fake.key"
    for file, text in zip(files, (made.public_bytes(serialization.Encoding.PEM), secret), strict=True):
        file.write_bytes(text)
    return files


def kubeconfig(url: str, ca: Path) -> Json:
    """With the certificate's data in it, as most have it."""
    data = base64.b64encode(ca.read_bytes()).decode()
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "fake",
        "clusters": [{"name": "fake", "cluster": {"server": url, "certificate-authority-data": data}}],
        "users": [{"name": "fake", "user": {"token": "secret-token"}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": NAMESPACE}}],
    }


class Fake:
    """The server as the bench sees it."""

    def __init__(self, size: Size, folder: Path, url: str) -> None:
        self.size, self.kubeconfig, self._url = size, folder / "kubeconfig", url
        self._context = ssl.create_default_context(cafile=str(folder / "fake.crt"))
        self.kubeconfig.write_text(json.dumps(kubeconfig(url, folder / "fake.crt")), "utf-8")  # JSON is YAML

    def ask(self, name: str, **query: str) -> Any:
        """One of the questions of the bench."""
        import urllib.request
        from urllib.parse import urlencode

        handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._context))
        opener = urllib.request.build_opener(*handlers)
        with opener.open(f"{self._url}/fake/{name}?{urlencode(query)}", timeout=60) as answer:
            return json.load(answer)


@contextmanager
def served(size: Size, delays: list[list[float]], folder: Path, seed: int = 1) -> Iterator[Fake]:
    """A fake mesh in a process of its own, until the end of the block; ``folder`` gets its files."""
    certificate(folder)
    (folder / "mesh.json").write_text(json.dumps({"size": asdict(size), "delays": delays, "seed": seed}), "utf-8")
    words = [sys.executable, "-B", "-m", MODULE, str(folder)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        url = process.stdout.readline().strip() if process.stdout else ""
        if not url:
            raise RuntimeError("the fake cluster did not start; its traceback says why")
        yield Fake(size, folder, url)
    finally:
        process.terminate()
        process.wait(10)


async def run(folder: Path) -> None:
    """Serve what ``mesh.json`` in the folder says; the address goes to stdout."""
    given = json.loads((folder / "mesh.json").read_text("utf-8"))
    server = Server(Mesh(Size(**given["size"]), given["delays"], given["seed"], time.time()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "fake.crt", folder / "fake.key")
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context, limit=1 << 22, backlog=1024)
    print(f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}", flush=True)
    async with listening:
        await listening.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(parser.parse_args().folder))
