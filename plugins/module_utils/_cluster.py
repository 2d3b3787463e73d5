# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Kubernetes API: the only file that imports kubernetes or kubernetes.core. Private to this collection.

kubernetes.core makes the configuration (kubeconfig, environment, in-cluster, impersonation), so access options mean
the same as there. Requests go through the client's connection pool as plain JSON: no discovery, no cache files, and
the same code for client 29 to 37, whose generated methods differ.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import threading
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlencode

from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC

try:
    import urllib3
    import websocket
    from ansible_collections.kubernetes.core.plugins.module_utils.k8s.client import (
        _create_auth_spec,
        _create_configuration,
        _create_headers,
    )
    from kubernetes import client as kubernetes_client
    from kubernetes.client.exceptions import OpenApiException
    from kubernetes.stream.ws_client import portforward_call

    IMPORT_ERROR = ""
except ImportError as error:
    IMPORT_ERROR = str(error)

FIELD_MANAGER = "progressive.istio"
TIMEOUT = 10.0  # seconds for connecting and for each read; the API server answers what we ask in milliseconds
ADMIN_PORT = 15000
NO_FORWARD = "no port-forward to"  # how the text begins where there is none

ACCESS_SPEC: Mapping[str, Any] = AUTH_ARG_SPEC


class ApiError(Exception):
    """The API server said no. ``status`` is the HTTP status, the text its message with what was asked."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class NoAnswer(Exception):
    """The API server, or a pod behind it, did not answer; a write may have happened."""


def _as_us(dry_run: bool) -> dict[str, str]:
    """Query of every write."""
    return {"fieldManager": FIELD_MANAGER, **({"dryRun": "All"} if dry_run else {})}


def path_of(group_version: str, namespace: str, plural: str, name: str = "") -> str:
    """API path of a namespaced object or its collection; ``group_version`` is ``v1`` or ``apps/v1``."""
    root = "/apis/" if "/" in group_version else "/api/"
    place = f"namespaces/{quote(namespace)}/" if namespace else ""
    return f"{root}{group_version}/{place}{plural}" + (f"/{quote(name)}" if name else "")


class Cluster:
    """One connection pool to one API server. Thread-safe."""

    def __init__(self, module: Any) -> None:
        """``module``: an AnsibleModule with the access options. Raises ApiError when they lead nowhere."""
        try:
            configuration = _create_configuration(_create_auth_spec(module))
            self._headers = {str(k): v for k, v in _create_headers(module).items()}
        except Exception as error:  # noqa: BLE001 - parsers and credential plugins raise whatever their authors liked
            raise ApiError(
                0, f"cannot use the cluster's access options: {_first_line(error)}{_kubeconfig(module)}"
            ) from None
        self._configuration = configuration
        self._pool = kubernetes_client.ApiClient(configuration).rest_client.pool_manager
        self._admins: dict[tuple[str, str], _Admin] = {}
        self._admins_lock = threading.Lock()
        self._clock = (0.0, 0.0)
        websocket.setdefaulttimeout(TIMEOUT)
        threading.excepthook = _silent_port_forwards

    # ------------------------------------------------------------ requests

    def _auth_headers(self) -> dict[str, str]:
        token = self._configuration.auth_settings().get("BearerToken")
        return {token["key"]: token["value"]} if token and token.get("value") else {}

    def _send(
        self,
        method: str,
        path: str,
        body: Any = None,
        content: str = "application/json",
        headers: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT,
    ) -> Any:
        sent = {"Accept": "application/json, */*;q=0.1", "Content-Type": content, **(headers or {})}
        sent |= self._auth_headers()
        for name, value in self._headers.items():
            sent[name] = value if isinstance(value, str) else value[0]
        try:
            return self._pool.request(
                method,
                self._configuration.host + path,
                body=None if body is None else json.dumps(body),
                headers=sent,
                timeout=urllib3.Timeout(connect=min(timeout, TIMEOUT / 2), read=timeout),
                retries=False,
            )
        except urllib3.exceptions.HTTPError as error:
            raise NoAnswer(f"{self._configuration.host} does not answer: {_reason(error)}") from None

    def request(self, method: str, path: str, body: Any = None, content: str = "application/json", **query: Any) -> Any:
        """Send JSON, return parsed JSON. Raises ApiError (with the status) or NoAnswer."""
        answer = self._send(method, path + (f"?{urlencode(query)}" if query else ""), body, content)
        self._set_clock(answer.headers.get("Date"))
        data = _json(answer.data)
        if answer.status in (429, 502, 503, 504):
            raise NoAnswer(f"{self._configuration.host} answers {answer.status} to {method} {path}")
        if answer.status >= 400:
            text = data.get("message") if isinstance(data, dict) else None
            text = text or answer.reason or str(answer.status)
            if answer.status == 403:
                raise ApiError(403, f"{text}; give the account that runs this that permission")
            if answer.status == 401:
                raise ApiError(
                    401, f"{self._configuration.host} does not accept the account ({text}); renew its access"
                )
            raise ApiError(answer.status, f"{method} {path}: {text}")
        return data

    def read(self, namespace: str, pod: str, port: int, path: str) -> bytes:
        """GET from a port of a pod through the API server's pod proxy. Raises NoAnswer, with what is in the way."""
        url = path_of("v1", namespace, "pods") + f"/{quote(pod)}:{port}/proxy{path}"
        answer = self._send("GET", url)
        if answer.status != 200:
            raise NoAnswer(f"no pod proxy to port {port} of {namespace}/{pod}: {answer.status} {answer.reason or ''}")
        return bytes(answer.data)

    def service(
        self, namespace: str, service: str, path: str, headers: Mapping[str, str], timeout: float
    ) -> tuple[int, bytes]:
        """GET from ``name:port`` of a Service through the API server: status and body. Raises NoAnswer."""
        url = path_of("v1", namespace, "services") + f"/{quote(service, safe=':')}/proxy{path}"
        answer = self._send("GET", url, headers=headers, timeout=timeout)
        return int(answer.status), bytes(answer.data)

    def get(self, group_version: str, namespace: str, plural: str, name: str) -> dict[str, Any] | None:
        """The object, or None where there is none."""
        try:
            found: dict[str, Any] = self.request("GET", path_of(group_version, namespace, plural, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return found

    def select(self, group_version: str, namespace: str, plural: str, selector: str = "") -> list[dict[str, Any]]:
        """Objects of a namespace, or of all (``namespace`` empty), from the API server's cache."""
        query = {"labelSelector": selector} if selector else {}
        data = self.request("GET", path_of(group_version, namespace, plural), resourceVersion="0", **query)
        found: list[dict[str, Any]] = data.get("items") or []
        return found

    def patch_json(
        self,
        group_version: str,
        obj: Mapping[str, Any],
        plural: str,
        patch: list[dict[str, Any]],
        dry_run: bool = False,
    ) -> dict[str, Any]:
        """Apply a JSON Patch to the object. 409 and 422 are the answers when it changed since it was read."""
        meta = obj["metadata"]
        path = path_of(group_version, meta.get("namespace", ""), plural, meta["name"])
        query = _as_us(dry_run)
        done: dict[str, Any] = self.request("PATCH", path, patch, "application/json-patch+json", **query)
        return done

    def write(
        self,
        method: str,
        group_version: str,
        namespace: str,
        plural: str,
        body: Mapping[str, Any],
        dry_run: bool = False,
    ) -> dict[str, Any]:
        """POST (create) or PUT (replace, fenced by the body's resourceVersion) an object that is ours alone."""
        name = "" if method == "POST" else body["metadata"]["name"]
        path = path_of(group_version, namespace, plural, name)
        done: dict[str, Any] = self.request(method, path, body, **_as_us(dry_run))
        return done

    def may(self, verb: str, group: str, plural: str, namespace: str) -> bool:
        """Whether the account may do this (a SelfSubjectAccessReview); True where nobody tells.

        ``plural`` may be ``pods/portforward``; an empty namespace means all of them.
        """
        resource, _slash, part = plural.partition("/")
        wish = {"verb": verb, "group": group, "resource": resource, "subresource": part, "namespace": namespace}
        body = {"spec": {"resourceAttributes": wish}}
        try:
            answer = self.request("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
        except ApiError:
            return True
        return bool(answer["status"]["allowed"])

    # ------------------------------------------------------------ time

    def _set_clock(self, date: str | None) -> None:
        if date and not self._clock[0]:
            self._clock = (parsedate_to_datetime(date).timestamp(), time.monotonic())

    def now(self) -> float:
        """Seconds since the epoch: the API server's clock (its first Date header, one second exact), and ours since."""
        if not self._clock[0]:
            self.request("GET", "/version")
        return self._clock[0] + time.monotonic() - self._clock[1]

    # ------------------------------------------------------------ proxies

    def admin(self, namespace: str, pod: str, path: str, port: int = ADMIN_PORT) -> bytes:
        """GET from a port of a pod (Envoy's admin) over a port-forward that stays open. Raises NoAnswer or ApiError."""
        with self._admins_lock:
            admin = self._admins.setdefault((namespace, pod), _Admin(self, namespace, pod, port))
        return admin.get(path)

    def forget(self, keep: set[tuple[str, str]]) -> None:
        """Close the connections to pods that are gone."""
        with self._admins_lock:
            for key in self._admins.keys() - keep:
                self._admins.pop(key).close()

    def forward(self, namespace: str, pod: str, port: int) -> Any:
        """A port-forward over WebSocket (needs ``get`` and ``create`` on pods/portforward)."""
        path = path_of("v1", namespace, "pods", pod) + "/portforward"
        query = [("ports", str(port))]
        url = f"{self._configuration.host}{path}"
        try:
            return portforward_call(
                self._configuration,
                "GET",
                url,
                query_params=query,
                headers={k.lower(): v for k, v in self._auth_headers().items()},
            )
        except OpenApiException as error:  # the client wraps everything in it, even KeyboardInterrupt
            raise NoAnswer(f"{NO_FORWARD} {namespace}/{pod}: {_handshake(error)}") from None


class _Admin:
    """A kept-alive HTTP connection to one pod's port; one request at a time."""

    def __init__(self, cluster: Cluster, namespace: str, pod: str, port: int) -> None:
        self._cluster, self._namespace, self._pod, self._port = cluster, namespace, pod, port
        self._forward: Any = None
        self._connection: http.client.HTTPConnection | None = None
        self._lock = threading.Lock()

    def _open(self) -> http.client.HTTPConnection:
        self._forward = self._cluster.forward(self._namespace, self._pod, self._port)
        connection = http.client.HTTPConnection("localhost")
        connection.auto_open = 0
        connection.sock = self._forward.socket(self._port)
        connection.sock.settimeout(TIMEOUT / 2)
        return connection

    def get(self, path: str) -> bytes:
        with self._lock:
            fresh = self._connection is None
            try:
                return self._ask(path)
            except (OSError, http.client.HTTPException) as error:
                self._close()
                if fresh:
                    raise NoAnswer(
                        f"proxy of {self._namespace}/{self._pod} does not answer: {_first_line(error)}"
                    ) from None
            try:  # an old connection may simply have run out
                return self._ask(path)
            except (OSError, http.client.HTTPException) as error:
                self._close()
                raise NoAnswer(
                    f"proxy of {self._namespace}/{self._pod} does not answer: {_first_line(error)}"
                ) from None

    def _ask(self, path: str) -> bytes:
        if self._connection is None:
            self._connection = self._open()
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise NoAnswer(f"proxy of {self._namespace}/{self._pod} answers {answer.status} to {path}")
        return body

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._forward is not None:
            self._forward.close()
        self._connection = self._forward = None

    def close(self) -> None:
        with self._lock:
            self._close()


def _silent_port_forwards(args: threading.ExceptHookArgs) -> None:
    """The client's port-forward threads die with a traceback when a pod goes away; their reader is told anyway."""
    if args.thread is None or "port forward" not in args.thread.name:
        threading.__excepthook__(args)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data) if data else {}
    except ValueError:
        return {"message": data[:200].decode(errors="replace")}


def _kubeconfig(module: Any) -> str:
    """Which file was read for the access options; the client's own messages do not name it."""
    given = module.params.get("kubeconfig")
    if isinstance(given, dict):
        return ""
    path = given or os.environ.get("K8S_AUTH_KUBECONFIG") or os.environ.get("KUBECONFIG") or "~/.kube/config"
    return f" (kubeconfig {path}); mend it, or give host and api_key"


def _reason(error: BaseException) -> str:
    """Why a connection failed, without the names of the objects that failed."""
    noise = r"^((<[^>]*>|\w+\([^)]*\)): )?(Failed to establish a new connection: )?"
    return re.sub(noise, "", _first_line(error))


def _handshake(error: BaseException) -> str:
    """Why a WebSocket was refused: the status, without the headers that the client puts behind it."""
    found = re.search(r"Handshake status (\d+ [\w ]*\w)", str(error))
    return found[1] if found else _reason(error)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
