# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An HTTP server that plays an API server as far as errors need it, and whole modules run against it."""

from __future__ import annotations

import copy
import importlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args

Json = dict[str, Any]
Run = Callable[..., Json]

NETWORKING = "/apis/networking.istio.io/v1/namespaces/namespace-1"
CORE = "/api/v1/namespaces/namespace-1"
HOST = "app-1.namespace-1.svc.cluster.local"
RBAC = Path(__file__).resolve().parents[4] / "docs" / "rbac.yml"
OF_EVERYBODY = {("create", "authorization.k8s.io", "selfsubjectaccessreviews")}


def service() -> Json:
    return {
        "metadata": {"name": "app-1", "namespace": "namespace-1"},
        "spec": {"ports": [{"port": 80}], "selector": {"app": "app-1"}},
    }


def destination_rule() -> Json:
    return {
        "metadata": {"name": "app-1", "namespace": "namespace-1"},
        "spec": {"host": HOST, "subsets": [{"name": v, "labels": {"version": v}} for v in ("v1", "v2")]},
    }


def virtual_service() -> Json:
    route = [{"destination": {"host": HOST, "subset": v}, "weight": w} for v, w in (("v1", 100), ("v2", 0))]
    meta = {"name": "app-1", "namespace": "namespace-1", "uid": "uid-1", "resourceVersion": "7"}
    return {
        "kind": "VirtualService",
        "metadata": {**meta, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"hosts": [HOST], "http": [{"name": "main", "route": route}]},
    }


def pod(version: str, ready: bool = True, sidecar: bool = True) -> Json:
    """A pod of the service, with a sidecar that has not started: it is not asked."""
    labels = {"app": "app-1", "version": version, "pod-template-hash": f"hash-{version}"}
    meta = {"name": f"app-1-{version}", "namespace": "namespace-1", "uid": version, "labels": labels}
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    return {
        "metadata": {**meta, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": [{"name": "app"}, *([{"name": "istio-proxy"}] if sidecar else [])]},
        "status": {"phase": "Running", "conditions": [condition]},
    }


def shipped_rights() -> set[tuple[str, str, str]]:
    """(verb, API group, resource) of all roles in docs/rbac.yml."""
    rules = [rule for role in yaml.safe_load(RBAC.read_text("utf-8"))["items"] for rule in role["rules"]]
    return {
        (verb, group, resource)
        for rule in rules
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def _verb(method: str, name: str) -> str:
    verbs = {"PATCH": "patch", "POST": "create", "PUT": "update", "DELETE": "delete"}
    return verbs.get(method) or ("get" if name else "list")


class ApiServer:
    """Objects by path. What is not there is a 404; ``denied`` (method, plural) is a 403 in the real one's words.

    ``denied`` with a third member, a namespace or none for the whole cluster, is for there alone.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.queries: list[tuple[str, str]] = []
        self.denied: set[tuple[str, ...]] = set()
        self.called: set[tuple[str, str, str]] = set()  # verb, API group, resource
        self.not_installed: set[str] = {"canaries", "rollouts"}  # kinds that nobody has made known to this server
        self.broken: int = 0  # a status that every request is answered with
        self.texts: dict[str, str] = {}  # what pods answer, by path
        self.objects: dict[str, Json] = {
            f"{CORE}/services/app-1": service(),
            f"{NETWORKING}/destinationrules/app-1": destination_rule(),
            f"{NETWORKING}/virtualservices/app-1": virtual_service(),
            f"{CORE}/pods/app-1-v1": pod("v1"),
            f"{CORE}/pods/app-1-v2": pod("v2"),
        }
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                parts = urlsplit(self.path)
                api.queries.append((parts.path, parts.query))
                tried = "dryRun=All" in parts.query
                status, answer = (api.tried if tried else api.answer)(self.command, parts.path, body)
                plain = isinstance(answer, str)
                data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/plain" if plain else "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PATCH = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 - the names that http.server calls

            def log_message(self, *_args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def without(self, plural: str) -> None:
        """As if there were no object of that kind."""
        self.objects = {path: obj for path, obj in self.objects.items() if f"/{plural}/" not in path}

    @property
    def written(self) -> list[tuple[str, str]]:
        return [(method, path) for method, path in self.requests if method != "GET"]

    def tried(self, method: str, path: str, body: bytes) -> tuple[int, Json | str]:
        """The answer to a dry run: nothing is written."""
        before = copy.deepcopy(self.objects)
        status, answer = self.answer(method, path, body)
        self.objects = before
        self.requests.pop()
        return status, answer

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Json | str]:
        self.requests.append((method, path))
        self._remember(method, path)
        if self.broken:
            return self.broken, {"message": "etcdserver: leader changed"}
        if path.endswith("/selfsubjectaccessreviews"):
            self.requests.pop()  # it is asked, nothing is written
            wish = json.loads(body)["spec"]["resourceAttributes"]
            return 201, {"status": {"allowed": (wish["verb"], wish["resource"]) not in self.denied}}
        group, namespace, plural, name = self._parts(path)
        verb = _verb(method, name)
        if plural in self.not_installed:
            return 404, {"kind": "Status", "code": 404, "message": "the server could not find the requested resource"}
        if self.denied & {(verb, plural), (verb, plural, namespace)}:
            place = f' in the namespace "{namespace}"' if namespace else " at the cluster scope"
            what = f'{plural} "{name}"' if name else plural
            what += f' is forbidden: User "deployer" cannot {verb} resource "{plural}" in API group "{group}"'
            return 403, {"kind": "Status", "code": 403, "reason": "Forbidden", "message": what + place}
        if path == "/version":
            return 200, {"gitVersion": "v1.34.0"}
        if method == "GET" and not name:
            items = [
                obj
                for there, obj in sorted(self.objects.items())
                if self._parts(there)[2] == plural and namespace in ("", self._parts(there)[1])
            ]
            return 200, {"items": copy.deepcopy(items)}
        if method == "POST" and f"{path}/{json.loads(body)['metadata']['name']}" in self.objects:
            return 409, {"kind": "Status", "code": 409, "message": "already exists"}
        if method == "POST":
            made: Json = {**json.loads(body)}
            made["metadata"] = {**made["metadata"], "resourceVersion": "1"}
            self.objects[f"{path}/{made['metadata']['name']}"] = made
            return 201, made
        if path in self.texts:
            return 200, self.texts[path]
        if path not in self.objects:
            return 404, {"kind": "Status", "code": 404, "message": f'{plural} "{name}" not found'}
        if method == "PUT":
            self.objects[path] = json.loads(body)
        if method == "PATCH":
            # Not at the top: pytest reads this file before the collection can be imported.
            routes = importlib.import_module("ansible_collections.progressive.istio.plugins.module_utils._routes")
            self.objects[path] = routes.apply_patch(self.objects[path], json.loads(body))
        if method == "DELETE":
            return 200, self.objects.pop(path)
        return 200, self.objects[path]

    def _remember(self, method: str, path: str) -> None:
        group, _namespace, plural, name = self._parts(path)
        if path == "/version":
            return
        verb = _verb(method, name)
        part = next((f"/{one}" for one in ("portforward", "proxy") if f"{name}/{one}" in path), "")
        self.called.add((verb, group, plural + part))

    @staticmethod
    def _parts(path: str) -> tuple[str, str, str, str]:
        """(API group, namespace, plural, name) of a path."""
        parts = path.strip("/").split("/")
        group = parts[1] if parts[0] == "apis" else ""
        rest = parts[3:] if parts[0] == "apis" else parts[2:]
        namespace, rest = (rest[1], rest[2:]) if rest[:1] == ["namespaces"] and len(rest) > 2 else ("", rest)
        return group, namespace, rest[0] if rest else "", rest[1] if len(rest) > 1 else ""


@pytest.fixture
def api() -> Iterator[ApiServer]:
    server = ApiServer()
    yield server
    server.close()
    assert server.called - shipped_rights() - OF_EVERYBODY == set(), "docs/rbac.yml does not allow what was called"


@pytest.fixture
def run(api: ApiServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """``run("istio_weight", check=False, **options)``: the result of a whole module, access options included."""
    for name in [name for name in os.environ if name.startswith(("K8S_AUTH_", "KUBE"))]:
        monkeypatch.delenv(name)

    def call(name: str, /, check: bool = False, **options: Any) -> Json:
        module = importlib.import_module(f"ansible_collections.progressive.istio.plugins.modules.{name}")
        args = {"host": api.url, "api_key": "secret-token", "_ansible_check_mode": check, **options}
        with patch_module_args(args), pytest.raises(SystemExit):
            module.main()
        out = capsys.readouterr()
        assert "Traceback" not in out.out + out.err
        assert "secret-token" not in out.out + out.err
        result: Json = json.loads(out.out)
        return result

    return call
