# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions to a Prometheus, or to whatever answers as one. Private to this collection.

By its URL, or through the API server to its Service, so that nothing has to be exposed. A URL is asked by POST, as
queries can be long; a Service by GET, as that takes no more than the right to get services/proxy.
"""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit

from ansible.module_utils.urls import open_url
from ansible_collections.progressive.istio.plugins.module_utils._cluster import Cluster, NoAnswer
from ansible_collections.progressive.istio.plugins.module_utils._plan import ReleaseError
from ansible_collections.progressive.istio.plugins.module_utils._prometheus import check_labels, one_line

FIELD = "analysis.prometheus"
INSTANT, RANGE = "/api/v1/query", "/api/v1/query_range"
MAX_BYTES = 64 * 1024 * 1024
_SERVICE = re.compile(r"([a-z0-9][-a-z0-9]*)/((?:https?:)?[a-z0-9][-a-z0-9.]*:[a-z0-9][-a-z0-9]*)")

PROMETHEUS_SPEC: Mapping[str, Any] = {
    "url": {"type": "str"},
    "service": {"type": "str"},
    "bearer_token": {"type": "str", "no_log": True},
    "username": {"type": "str"},
    "password": {"type": "str", "no_log": True},
    "headers": {"type": "dict", "default": {}, "no_log": True},
    "ca_cert": {"type": "path"},
    "client_cert": {"type": "path"},
    "client_key": {"type": "path", "no_log": False},
    "validate_certs": {"type": "bool", "default": True},
    "timeout": {"type": "float", "default": 5.0},
    "max_age": {"type": "float", "default": 60.0},
    "labels": {"type": "dict", "default": {}},
}


class BadQuery(NoAnswer):
    """It has read the query, and it is no PromQL."""


@dataclass(frozen=True, slots=True)
class Access:
    """Where a Prometheus is, and how to get in. Of ``url`` and ``service`` one is empty; ``max_age`` in seconds."""

    url: str
    service: str
    headers: Mapping[str, str]
    username: str
    password: str
    ca_cert: str | None
    client_cert: str | None
    client_key: str | None
    validate_certs: bool
    timeout: float
    max_age: float
    labels: Mapping[str, str] = field(default_factory=dict)


def access(given: Mapping[str, Any] | None, where: str = FIELD) -> Access:
    """From the option. Raises ReleaseError, naming the field."""
    options = given or {}
    url, service = (options.get("url") or "").rstrip("/"), options.get("service") or ""
    if bool(url) == bool(service):
        there = "both" if url else "neither"
        raise ReleaseError(f"{where}: expected url or service, got {there}")
    if url and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
        raise ReleaseError(f"{where}.url: expected http://host or https://host, got {url!r}")
    if service and not _SERVICE.fullmatch(service):
        raise ReleaseError(f"{where}.service: expected namespace/name:port, got {service!r}")
    by_url = ("bearer_token", "username", "password", "ca_cert", "client_cert", "client_key")
    if service and (more := [name for name in by_url if options.get(name)]):
        raise ReleaseError(f"{where}.{more[0]}: is for url; to a service the API server passes on headers alone")
    for name in ("timeout", "max_age"):
        if not 0.1 <= options[name] <= 3600.0:
            raise ReleaseError(f"{where}.{name}: expected 0.1 to 3600 seconds, got {options[name]:g}")
    headers = {str(name): str(value) for name, value in (options.get("headers") or {}).items()}
    if options.get("bearer_token"):
        headers["Authorization"] = f"Bearer {options['bearer_token']}"
    try:
        labels = check_labels(options.get("labels") or {})
    except ValueError as error:
        raise ReleaseError(f"{where}.{error}") from None
    return Access(
        url,
        service,
        headers,
        options.get("username") or "",
        options.get("password") or "",
        options.get("ca_cert"),
        options.get("client_cert"),
        options.get("client_key"),
        bool(options["validate_certs"]),
        options["timeout"],
        options["max_age"],
        labels,
    )


class Prometheus:
    """One that can be asked."""

    def __init__(self, where: Access, cluster: Cluster | None) -> None:
        """``cluster`` is needed for a Service."""
        self.access, self._cluster = where, cluster

    @property
    def name(self) -> str:
        """For messages."""
        where = self.access
        return f"Prometheus at {where.url}" if where.url else f"Prometheus in Service {where.service}"

    def ask(self, query: str, at: float | None = None) -> bytes:
        """The answer to a query at one time (seconds since the epoch), or now. Raises NoAnswer, in words."""
        return self._send(INSTANT, {"query": query, **({} if at is None else {"time": f"{at:.3f}"})})

    def _send(self, path: str, fields: Mapping[str, str]) -> bytes:
        if self.access.url:
            return self._by_url(self.access.url + path, fields)
        if self._cluster is None:
            raise NoAnswer(f"{self.name} needs access to the cluster")
        namespace, _slash, service = self.access.service.partition("/")
        url = f"{path}?{urlencode(fields)}"
        answer, body = self._cluster.service(namespace, service, url, self.access.headers, self.access.timeout)
        return self._checked(answer, body)

    def _by_url(self, url: str, fields: Mapping[str, str]) -> bytes:
        where = self.access
        try:
            answer = open_url(
                url,
                data=urlencode(fields),
                method="POST",
                headers={"Content-Type": "application/x-www-form-urlencoded", **where.headers},
                timeout=where.timeout,
                validate_certs=where.validate_certs,
                url_username=where.username or None,
                url_password=where.password or None,
                force_basic_auth=bool(where.username),
                ca_path=where.ca_cert,
                client_cert=where.client_cert,
                client_key=where.client_key,
            )
            body = answer.read(MAX_BYTES + 1)
        except HTTPError as error:
            return self._checked(error.code, error.read(MAX_BYTES + 1))
        except URLError as error:
            raise NoAnswer(f"{self.name} does not answer: {reason(error.reason)}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NoAnswer(f"{self.name} does not answer: {reason(error)}") from None
        return self._checked(200, body)

    def _checked(self, status: int, body: bytes) -> bytes:
        if len(body) > MAX_BYTES:
            raise NoAnswer(
                f"{self.name} answers with more than {MAX_BYTES // 1024 // 1024} MiB; use labels to ask less"
            )
        if status == 400:
            raise BadQuery(f"{self.name} answers {status}: {_said(body)}")
        if status != 200:
            raise NoAnswer(f"{self.name} answers {status}: {_said(body)}")
        return body


def _said(body: bytes) -> str:
    """What an error is about: Prometheus' and the API server's own words, or the beginning."""
    try:
        data = json.loads(body)
        return reason(data.get("error") or data.get("message") or body[:200])
    except (ValueError, AttributeError):
        return reason(body[:200].decode(errors="replace"))


def reason(error: object) -> str:
    """What an error or an answer says, in one line, or what it is."""
    return one_line(error) or type(error).__name__
