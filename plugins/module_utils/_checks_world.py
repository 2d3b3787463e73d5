# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The user's own checks: from the options, and asked of Prometheus, by HTTP and of Kubernetes. Private.

Each question has a thread of its own, so that none of them keeps a release from looking at its canary.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit, urlunsplit

from ansible.module_utils.urls import open_url
from ansible_collections.progressive.istio.plugins.module_utils._checks import (
    NAME,
    About,
    Answer,
    Check,
    Http,
    Job,
    Promql,
    clash,
    job_answer,
    job_manifest,
)
from ansible_collections.progressive.istio.plugins.module_utils._cluster import ApiError, Cluster, NoAnswer, path_of
from ansible_collections.progressive.istio.plugins.module_utils._plan import ReleaseError
from ansible_collections.progressive.istio.plugins.module_utils._prometheus import Unusable, values
from ansible_collections.progressive.istio.plugins.module_utils._prometheus_http import (
    PROMETHEUS_SPEC,
    Access,
    BadQuery,
    Prometheus,
    access,
    reason,
)
from ansible_collections.progressive.istio.plugins.module_utils._run import Run

BATCH = "batch/v1"
LONGEST_TIMEOUT = 30.0
GIVEN_UP = 45.0  # seconds after which nobody waits for an answer any more
CONFLICT, SERVER_ERROR = 409, 500

CHECK_SPEC: Mapping[str, Any] = {
    "name": {"type": "str", "required": True},
    "promql": {
        "type": "dict",
        "options": {
            "query": {"type": "str", "required": True},
            "min": {"type": "float"},
            "max": {"type": "float"},
            "prometheus": {"type": "dict", "options": dict(PROMETHEUS_SPEC)},
        },
    },
    "http": {
        "type": "dict",
        "options": {
            "url": {"type": "str", "required": True},
            "status": {"type": "int", "default": 200},
            "timeout": {"type": "float", "default": 5.0},
            "headers": {"type": "dict", "default": {}, "no_log": False},
            "secret_headers": {"type": "dict", "default": {}, "no_log": True},
            "ca_cert": {"type": "path"},
            "validate_certs": {"type": "bool", "default": True},
        },
    },
    "job": {"type": "dict", "options": {"template": {"type": "dict"}, "cronjob": {"type": "str"}}},
    "on_failure": {"type": "str", "choices": ["wait", "abort"], "default": "wait"},
    "failures": {"type": "int", "default": 3},
    "interval": {"type": "float", "default": 15.0},
}


_Maker: TypeAlias = "Callable[[str, Mapping[str, Any], Mapping[str, Any]], Promql | Http | Job]"

# ---------------------------------------------------------------- options


def checks_of(analysis: Mapping[str, Any]) -> tuple[Check, ...]:
    """The checks of option ``analysis``. Raises ReleaseError, naming the field."""
    found = tuple(_check(f"analysis.checks[{n}]", one, analysis) for n, one in enumerate(analysis["checks"], 1))
    names = [check.name for check in found]
    for number, name in enumerate(names, 1):
        if name in names[: number - 1]:
            raise ReleaseError(f"analysis.checks[{number}].name: {name!r} is there twice; names tell checks apart")
    return found


def _check(where: str, given: Mapping[str, Any], analysis: Mapping[str, Any]) -> Check:
    if not NAME.fullmatch(given["name"]):
        raise ReleaseError(
            f"{where}.name: expected at most 30 of a-z, 0-9 and - (it becomes part of a Job's name), "
            f"got {given['name']!r}"
        )
    kinds = [kind for kind in ("promql", "http", "job") if given.get(kind) is not None]
    if len(kinds) != 1:
        raise ReleaseError(f"{where}: expected one of promql, http and job, got {' and '.join(kinds) or 'none'}")
    (kind,) = kinds
    makers: Mapping[str, _Maker] = {"promql": _promql, "http": _http, "job": _job}
    for name, least in (("failures", 1), ("interval", 1)):
        if not given[name] >= least:
            raise ReleaseError(f"{where}.{name}: expected at least {least}, got {given[name]:g}")
    asks = makers[kind](f"{where}.{kind}", given[kind], analysis)
    return Check(given["name"], asks, given["on_failure"], given["failures"], given["interval"])


def _promql(where: str, given: Mapping[str, Any], analysis: Mapping[str, Any]) -> Promql:
    least, most = given.get("min"), given.get("max")
    if least is None and most is None:
        raise ReleaseError(f"{where}: expected min, max or both, got neither")
    if least is not None and most is not None and least > most:
        raise ReleaseError(f"{where}.min: expected at most max = {most:g}, got {least:g}")
    if not given["query"].strip():
        raise ReleaseError(f"{where}.query: expected PromQL, got nothing")
    own = given.get("prometheus")
    if own is None and analysis.get("prometheus") is None:
        raise ReleaseError(f"{where}: there is no Prometheus to ask; set analysis.prometheus, or {where}.prometheus")
    place = access(own, f"{where}.prometheus") if own is not None else access(analysis["prometheus"])
    return Promql(given["query"], least, most, place)


def _http(where: str, given: Mapping[str, Any], _analysis: Mapping[str, Any]) -> Http:
    try:
        parts = urlsplit(given["url"])
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise ReleaseError(f"{where}.url: expected http://host/path or https://host/path, got {shown(given['url'])!r}")
    if not 100 <= given["status"] <= 599:
        raise ReleaseError(f"{where}.status: expected 100 to 599, got {given['status']}")
    if not 0.1 <= given["timeout"] <= LONGEST_TIMEOUT:
        raise ReleaseError(f"{where}.timeout: expected 0.1 to {LONGEST_TIMEOUT:g} seconds, got {given['timeout']:g}")
    plain, secret = given.get("headers") or {}, given.get("secret_headers") or {}
    headers = {str(name): str(value) for name, value in {**plain, **secret}.items()}
    for name, value in headers.items():
        if not name or any(not char.isprintable() for char in name + value):
            raise ReleaseError(f"{where}: header {name!r}: expected a name and a value of one line")
    return Http(
        given["url"], given["status"], given["timeout"], headers, bool(given["validate_certs"]), given.get("ca_cert")
    )


def _job(where: str, given: Mapping[str, Any], _analysis: Mapping[str, Any]) -> Job:
    template, cronjob = given.get("template"), given.get("cronjob") or ""
    if bool(template) == bool(cronjob):
        there = "both" if cronjob else "neither"
        raise ReleaseError(f"{where}: expected template (a Job) or cronjob (the name of one), got {there}")
    if not template:
        return Job(cronjob=cronjob)
    for name, expected in (("kind", "Job"), ("apiVersion", BATCH)):
        if template.get(name, expected) != expected:
            raise ReleaseError(f"{where}.template.{name}: expected {expected}, got {template[name]!r}")
    try:
        containers = template["spec"]["template"]["spec"]["containers"]
        usable = bool(containers) and all(isinstance(one, dict) for one in containers)
    except (KeyError, TypeError):
        usable = False
    if not usable:
        raise ReleaseError(f"{where}.template: expected a Job with spec.template.spec.containers")
    return Job(template=template)


def shown(url: str) -> str:
    """A URL without what may be secret: user, password, and the query."""
    try:
        parts = urlsplit(url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    except ValueError:
        return "something else"


# ---------------------------------------------------------------- questions


Subject = TypeVar("Subject")
Reply = TypeVar("Reply")


class _Question(Generic[Subject, Reply]):
    """One that is under way."""

    def __init__(self, name: str, subject: Subject, ask: Callable[[], Reply]) -> None:
        self.subject, self.began = subject, time.monotonic()
        self.answer: Reply | None = None
        self._ask = ask
        threading.Thread(target=self._run, daemon=True, name=name).start()

    def _run(self) -> None:
        self.answer = self._ask()


class Questions(Generic[Subject, Reply]):
    """Those under way, by name, each in a thread of its own. ``silence`` makes an answer of why there was none."""

    def __init__(self, silence: Callable[[str], Reply]) -> None:
        self._silence = silence
        self._under_way: dict[str, _Question[Subject, Reply]] = {}

    def ask(self, name: str, subject: Subject, question: Callable[[], Reply]) -> Reply | None:
        """Begin to ask, or bring the answer; None while there is none. ``question`` must not raise."""
        found = self._under_way.get(name)
        if found is None or found.subject != subject:
            found = self._under_way[name] = _Question(name, subject, question)
        answer = found.answer
        if answer is None and time.monotonic() - found.began > GIVEN_UP:
            answer = self._silence(f"there was no answer for {GIVEN_UP:.0f} s")
        if answer is not None:
            del self._under_way[name]
        return answer


class CheckReader:
    """Asks checks about the releases of one service. ``selector``: of the Service."""

    def __init__(self, cluster: Cluster, namespace: str, run: Run, selector: Callable[[], Mapping[str, str]]) -> None:
        self._cluster, self._namespace, self._run, self._selector = cluster, namespace, run, selector
        self._questions: Questions[About, Answer] = Questions(lambda why: Answer("unknown", why))

    def ask(self, check: Check, subject: About) -> Answer | None:
        """Begin to ask, or bring the answer; None while there is none. Does not raise."""
        return self._questions.ask(check.name, subject, lambda: self.answer(check, subject))

    def answer(self, check: Check, subject: About) -> Answer:
        """Ask, and wait for the answer. Does not raise."""
        try:
            if isinstance(check.asks, Promql):
                return self._value(check.asks, subject)
            return self._get(check.asks, subject) if isinstance(check.asks, Http) else self._job(check, subject)
        except (NoAnswer, Unusable, ApiError) as error:
            return Answer("unknown", str(error))
        except Exception as error:  # noqa: BLE001 - what nobody has foreseen must not pass for an answer, nor be silent
            return Answer("unknown", f"{type(error).__name__}: {error}")

    def _value(self, asks: Promql, subject: About) -> Answer:
        query = subject.fill(asks.query)
        return asks.judged(query, values(self._prometheus(asks).ask(query)))

    def _prometheus(self, asks: Promql) -> Prometheus:
        if not isinstance(asks.where, Access):
            raise TypeError("a PromQL check without a Prometheus")
        return Prometheus(asks.where, self._cluster)

    @staticmethod
    def _get(asks: Http, subject: About) -> Answer:
        url = subject.fill(asks.url)
        try:
            answer = open_url(
                url,
                headers={name: subject.fill(value) for name, value in asks.headers.items()},
                timeout=asks.timeout,
                validate_certs=asks.validate_certs,
                ca_path=asks.ca_cert,
                follow_redirects="none",
            )
            status = int(answer.getcode())
            answer.close()
        except HTTPError as error:
            status = error.code
        except URLError as error:
            return Answer("unknown", f"{shown(url)} does not answer: {reason(error.reason)}")
        except (OSError, http.client.HTTPException, ValueError) as error:
            return Answer("unknown", f"{shown(url)} does not answer: {reason(error)}")
        return asks.judged(shown(url), status)

    # ------------------------------------------------------------ Jobs

    def _job(self, check: Check, subject: About) -> Answer:
        name = subject.job(check.name)
        found = self._cluster.get(BATCH, self._namespace, "jobs", name)
        if found is None:
            manifest = self._manifest(check, subject)
            if clashing := clash(self._selector(), manifest):
                return Answer("unknown", clashing)
            if not self._run.alive():
                return Answer("unknown", f"Job {name} is not made: the process that this run works for is gone")
            found = self._created(manifest)
        return job_answer(found, subject.release)

    def _manifest(self, check: Check, subject: About) -> dict[str, Any]:
        asks = check.asks
        if not isinstance(asks, Job):
            raise TypeError("not a check by a Job")
        template = asks.template
        if asks.cronjob:
            found = self._cluster.get(BATCH, self._namespace, "cronjobs", asks.cronjob)
            if found is None:
                raise ApiError(404, f"there is no CronJob {self._namespace}/{asks.cronjob}")
            template = found["spec"]["jobTemplate"]
        return job_manifest(template, check.name, subject, self._namespace)

    def _created(self, manifest: Mapping[str, Any], dry_run: bool = False) -> dict[str, Any]:
        """One that another look, or a run that was killed, has made in the meantime is as good."""
        try:
            made = self._cluster.write("POST", BATCH, self._namespace, "jobs", manifest, dry_run)
        except ApiError as error:
            if error.status != CONFLICT:
                raise
            found = self._cluster.get(BATCH, self._namespace, "jobs", manifest["metadata"]["name"])
            if found is None:
                raise
            return found
        return made

    # ------------------------------------------------------------ before and after

    def rehearse(self, checks: Sequence[Check], subject: About) -> None:
        """Try what can be tried before a release begins, and write nothing. Raises ReleaseError for what cannot work.

        That is a query that is no PromQL, and a Job that the API server would not take. What does not answer may yet.
        """
        for check in checks:
            where = f"check {check.name}"
            try:
                if isinstance(check.asks, Promql):
                    self._prometheus(check.asks).ask(subject.fill(check.asks.query))
                elif isinstance(check.asks, Job):
                    manifest = self._manifest(check, subject)
                    if clashing := clash(self._selector(), manifest):
                        raise ReleaseError(f"{where}: {clashing}")
                    self._created(manifest, dry_run=True)
            except BadQuery as error:
                raise ReleaseError(f"{where}: {error}; the query is {subject.fill(_query(check))}") from None
            except ApiError as error:
                if error.status < SERVER_ERROR:
                    raise ReleaseError(f"{where}: {error}") from None
            except NoAnswer:
                pass

    def tidy(self, jobs: Sequence[str]) -> None:
        """Delete these Jobs, with their pods. What cannot be deleted now goes an hour after its end."""
        for name in jobs:
            if not self._run.alive():
                return
            try:
                path = path_of(BATCH, self._namespace, "jobs", name)
                self._cluster.request("DELETE", path, propagationPolicy="Background")
            except (ApiError, NoAnswer):
                continue


def _query(check: Check) -> str:
    return check.asks.query if isinstance(check.asks, Promql) else ""
