# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks asked of real servers: a Prometheus, a page, an API server that makes Jobs. And options that make no sense."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.progressive.istio.plugins.module_utils import _checks_world, _preview
from ansible_collections.progressive.istio.plugins.module_utils._checks import RELEASE_LABEL, About, Answer, Check
from ansible_collections.progressive.istio.plugins.module_utils._checks_world import CheckReader, checks_of
from ansible_collections.progressive.istio.plugins.module_utils._cluster import Cluster
from ansible_collections.progressive.istio.plugins.module_utils._module import ANALYSIS_SPEC
from ansible_collections.progressive.istio.plugins.module_utils._plan import ReleaseError
from ansible_collections.progressive.istio.plugins.module_utils._run import Run as Runs

from .conftest import ApiServer, Json, Run

ABOUT = About("9f3c21ab", "v2", "v1", 2, 25, 1_700_000_000.4)
JOBS = "/apis/batch/v1/namespaces/namespace-1/jobs"
NAME = "smoke-9f3c21ab-2-6553f100"
TEMPLATE: Json = {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "i"}]}}}}
CANARY: Json = {"namespace": "namespace-1", "name": "app-1", "canary_version": "v2"}


class Site:
    """A server that plays a page, or a Prometheus: ``status``, ``body`` and ``delay`` of its answers."""

    def __init__(self) -> None:
        self.status, self.body, self.delay = 200, b"", 0.0
        self.asked: list[tuple[str, dict[str, str], str]] = []  # path, headers, query
        site = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode())
                headers = {name.lower(): value for name, value in self.headers.items()}
                site.asked.append((self.path, headers, "".join(form.get("query", []))))
                time.sleep(site.delay)
                self.send_response(site.status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(site.body)

            do_GET = do_POST = _serve  # noqa: N815 - the names that http.server calls

            def log_message(self, *_args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    found = Site()
    yield found
    found.close()


def analysis(*checks: Json, **more: Any) -> Json:
    """Option ``analysis`` with its defaults, as the module would have it."""
    result = ArgumentSpecValidator(dict(ANALYSIS_SPEC)).validate({"checks": list(checks), **more})
    assert result.error_messages == []
    found: Json = result.validated_parameters
    return found


def only(**given: Any) -> Check:
    (check,) = checks_of(analysis({"name": "smoke", **given}))
    return check


@pytest.fixture
def reader(api: ApiServer) -> CheckReader:
    cluster = Cluster(SimpleNamespace(params={"host": api.url, "api_key": "secret-token"}, fail_json=None))
    return CheckReader(cluster, "namespace-1", Runs(), lambda: {"app": "app-1"})


# ---------------------------------------------------------------- HTTP


@pytest.mark.parametrize(
    ("status", "expected", "state"),
    [(200, 200, "ok"), (503, 200, "failed"), (302, 200, "failed"), (302, 302, "ok"), (404, 404, "ok")],
)
def test_a_page_is_asked_for_its_status(
    status: int, expected: int, state: str, site: Site, reader: CheckReader
) -> None:
    site.status = status
    secret = {"Authorization": "Bearer hidden-{version}"}
    given = {"url": f"{site.url}/{{version}}?key=hidden", "status": expected, "secret_headers": secret}
    answer = reader.answer(only(http={**given, "headers": {"x-tester": "yes"}}), ABOUT)
    assert answer.state == state
    assert f"{site.url}/v2 answers {status}" in answer.text
    assert "hidden" not in answer.text
    ((path, headers, _query),) = site.asked
    assert (path, headers["x-tester"], headers["authorization"]) == ("/v2?key=hidden", "yes", "Bearer hidden-v2")


def test_a_page_that_does_not_answer_is_no_failure(site: Site, reader: CheckReader) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    answer = reader.answer(only(http={"url": f"http://127.0.0.1:{port}/a"}), ABOUT)
    assert answer.state == "unknown"
    assert f"http://127.0.0.1:{port}/a does not answer: " in answer.text
    site.delay = 0.5
    answer = reader.answer(only(http={"url": site.url, "timeout": 0.1}), ABOUT)
    assert answer.state == "unknown"
    assert "timed out" in answer.text


def wait_for(question: Callable[[], Answer | None]) -> Answer:
    while (answer := question()) is None:
        time.sleep(0.01)
    return answer


def test_asking_waits_for_nobody_and_another_step_is_another_question(site: Site, reader: CheckReader) -> None:
    site.delay = 0.2
    check = only(http={"url": f"{site.url}/{{step}}"})
    assert reader.ask(check, ABOUT) is None
    later = About("9f3c21ab", "v2", "v1", 3, 50, 1_700_000_060.0)
    assert reader.ask(check, later) is None
    assert f"{site.url}/3 answers 200" in wait_for(lambda: reader.ask(check, later)).text


def test_a_question_that_never_ends_is_given_up(
    site: Site, reader: CheckReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.delay = 0.5
    monkeypatch.setattr(_checks_world, "GIVEN_UP", 0.05)
    check = only(http={"url": site.url})
    answer = wait_for(lambda: reader.ask(check, ABOUT))
    assert (answer.state, answer.text) == ("unknown", "there was no answer for 0 s")


# ---------------------------------------------------------------- PromQL


def vector(*numbers: str) -> bytes:
    result = [{"metric": {}, "value": [1_700_000_000, number]} for number in numbers]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()


@pytest.mark.parametrize(
    ("body", "state", "text"),
    [
        (vector("0.5"), "ok", "has to be at least 0.1 and at most 1"),
        (vector("1.5"), "failed", "is 1.5, has to be at least 0.1 and at most 1"),
        (vector("0.05"), "failed", "is 0.05, has"),
        (vector(), "unknown", "is nothing"),
        (vector("1", "2"), "unknown", "is 2 series; aggregate them to one"),
        (vector("NaN"), "unknown", "is nan"),
        (vector("+Inf"), "unknown", "is inf"),
        (b'{"status": "success", "data": {"resultType": "scalar", "result": [1, "0.2"]}}', "ok", "is 0.2"),
        (b'{"status": "success", "data": {"resultType": "matrix", "result": []}}', "unknown", "a matrix instead"),
        (b'{"status": "success", "warnings": ["a store is gone"], "data": {}}', "unknown", "not complete"),
        (b"<html>", "unknown", "is not Prometheus'"),
    ],
)
def test_a_query_has_one_number(body: bytes, state: str, text: str, site: Site, reader: CheckReader) -> None:
    site.body = body
    query = 'sum(rate(orders_total{version="{version}"}[1m]))'
    check = only(promql={"query": query, "min": 0.1, "max": 1, "prometheus": {"url": site.url}})
    answer = reader.answer(check, ABOUT)
    assert answer.state == state
    assert text in answer.text
    asked = 'sum(rate(orders_total{version="v2"}[1m]))'
    assert [query for _path, _headers, query in site.asked] == [asked]
    assert asked in answer.text or state == "unknown"


def test_a_prometheus_that_is_not_there_says_nothing(site: Site, reader: CheckReader) -> None:
    site.status, site.body = 404, b"404 page not found"
    (check,) = checks_of(analysis({"name": "rate", "promql": {"query": "up", "min": 1}}, prometheus={"url": site.url}))
    answer = reader.answer(check, ABOUT)
    assert answer == Answer("unknown", f"Prometheus at {site.url} answers 404: 404 page not found")
    reader.rehearse((check,), ABOUT)  # it may come


def test_what_is_no_promql_is_refused_before_the_release(site: Site, reader: CheckReader) -> None:
    site.status, site.body = 400, b'{"status": "error", "errorType": "bad_data", "error": "parse error"}'
    check = only(promql={"query": "up{", "max": 1, "prometheus": {"url": site.url}})
    with pytest.raises(ReleaseError, match=r"^check smoke: .* answers 400: parse error; the query is up\{$"):
        reader.rehearse((check,), ABOUT)


# ---------------------------------------------------------------- Jobs


def test_a_job_is_made_once_and_its_end_is_the_answer(api: ApiServer, reader: CheckReader) -> None:
    check = only(job={"template": TEMPLATE})
    reader.rehearse((check,), ABOUT)
    assert api.written == []
    assert reader.answer(check, ABOUT) == Answer("running", f"Job {NAME}", NAME)
    assert reader.answer(check, ABOUT).state == "running"
    assert api.written == [("POST", JOBS)]
    job = api.objects[f"{JOBS}/{NAME}"]
    assert job["metadata"]["labels"][RELEASE_LABEL] == "9f3c21ab"
    assert job["spec"]["ttlSecondsAfterFinished"] == 3600
    assert job["spec"]["template"]["metadata"]["labels"]["sidecar.istio.io/inject"] == "false"
    environment = {one["name"]: one["value"] for one in job["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert environment["CANARY_VERSION"] == "v2"
    assert environment["CANARY_STEP"] == "2"
    failed = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "too often"}
    job["status"] = {"failed": 1, "conditions": [{"type": "FailureTarget", "status": "True"}, failed]}
    assert (
        reader.answer(check, ABOUT).text == f"Job {NAME} has failed (BackoffLimitExceeded: too often); see kubectl logs"
    )
    job["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    assert reader.answer(check, ABOUT) == Answer("ok", f"Job {NAME} has succeeded", NAME)
    reader.tidy([NAME, "gone-already"])
    assert f"{JOBS}/{NAME}" not in api.objects


def test_a_job_of_a_cronjob(api: ApiServer, reader: CheckReader) -> None:
    check = only(job={"cronjob": "nightly"})
    with pytest.raises(ReleaseError, match=r"^check smoke: there is no CronJob namespace-1/nightly$"):
        reader.rehearse((check,), ABOUT)
    assert reader.answer(check, ABOUT).state == "unknown"
    path = "/apis/batch/v1/namespaces/namespace-1/cronjobs/nightly"
    api.objects[path] = {"metadata": {"name": "nightly"}, "spec": {"jobTemplate": TEMPLATE}}
    assert reader.answer(check, ABOUT).state == "running"


def test_nothing_is_made_of_a_job_that_would_serve_requests_or_is_forbidden(
    api: ApiServer, reader: CheckReader
) -> None:
    pod = {**TEMPLATE["spec"]["template"], "metadata": {"labels": {"app": "app-1", "more": "x"}}}
    check = only(job={"template": {"spec": {"template": pod}}})
    with pytest.raises(
        ReleaseError, match=r"^check smoke: its pods have the labels that the Service selects \(app=app-1\)"
    ):
        reader.rehearse((check,), ABOUT)
    assert reader.answer(check, ABOUT).state == "unknown"
    api.denied = {("create", "jobs")}
    with pytest.raises(ReleaseError, match=r'^check smoke: jobs is forbidden: .* cannot create resource "jobs"'):
        reader.rehearse((only(job={"template": TEMPLATE}),), ABOUT)
    assert api.written == []


def test_the_job_of_somebody_else_tells_nothing_and_an_orphan_makes_none(
    api: ApiServer, reader: CheckReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.objects[f"{JOBS}/{NAME}"] = {"metadata": {"name": NAME}, "status": {}}
    check = only(job={"template": TEMPLATE})
    assert reader.answer(check, ABOUT) == Answer("unknown", f"Job {NAME} is there and not of this release; delete it")
    del api.objects[f"{JOBS}/{NAME}"]
    monkeypatch.setattr(Runs, "alive", lambda _self: False)
    assert reader.answer(check, ABOUT).state == "unknown"
    reader.tidy([NAME])
    assert api.written == []


# ---------------------------------------------------------------- options


HTTP = {"url": "http://a/b"}


@pytest.mark.parametrize(
    ("checks", "text"),
    [
        (
            [{"name": "A b", "http": HTTP}],
            "[1].name: expected at most 30 of a-z, 0-9 and - (it becomes part of a Job's",
        ),
        ([{"name": "a", "http": HTTP}] * 2, "[2].name: 'a' is there twice; names tell checks apart"),
        ([{"name": "a"}], "[1]: expected one of promql, http and job, got none"),
        (
            [{"name": "a", "http": HTTP, "job": {"cronjob": "b"}}],
            "[1]: expected one of promql, http and job, got http and",
        ),
        ([{"name": "a", "http": HTTP, "failures": 0}], "[1].failures: expected at least 1, got 0"),
        ([{"name": "a", "http": HTTP, "interval": 0.5}], "[1].interval: expected at least 1, got 0.5"),
        ([{"name": "a", "http": {"url": "ftp://u:pass@a/b"}}], "[1].http.url: expected http://host/path or https://"),
        ([{"name": "a", "http": {**HTTP, "status": 99}}], "[1].http.status: expected 100 to 599, got 99"),
        ([{"name": "a", "http": {**HTTP, "timeout": 60}}], "[1].http.timeout: expected 0.1 to 30 seconds, got 60"),
        (
            [{"name": "a", "http": {**HTTP, "secret_headers": {"X-Key": "pass@\nb"}}}],
            "[1].http: header 'X-Key': expected a name and a value of one line",
        ),
        ([{"name": "a", "promql": {"query": "up"}}], "[1].promql: expected min, max or both, got neither"),
        ([{"name": "a", "promql": {"query": " ", "max": 1}}], "[1].promql.query: expected PromQL, got nothing"),
        (
            [{"name": "a", "promql": {"query": "up", "min": 2, "max": 1}}],
            "[1].promql.min: expected at most max = 1, got 2",
        ),
        (
            [{"name": "a", "promql": {"query": "up", "max": 1}}],
            "[1].promql: there is no Prometheus to ask; set analysis.prometheus, or analysis.checks[1].promql",
        ),
        (
            [{"name": "a", "promql": {"query": "up", "max": 1, "prometheus": {}}}],
            "[1].promql.prometheus: expected url or service, got neither",
        ),
        ([{"name": "a", "job": {}}], "[1].job: expected template (a Job) or cronjob (the name of one), got neither"),
        ([{"name": "a", "job": {"template": {"kind": "Pod"}}}], "[1].job.template.kind: expected Job, got 'Pod'"),
        (
            [{"name": "a", "job": {"template": {"kind": "Job", "spec": {"template": {"spec": []}}}}}],
            "[1].job.template: expected a Job with spec.template.spec.containers",
        ),
    ],
)
def test_wrong_checks_are_known_before_anybody_is_asked(
    checks: list[Json], text: str, api: ApiServer, run: Run
) -> None:
    result = run("istio_canary", **CANARY, analysis={"checks": checks})
    assert result["failed"] is True
    assert result["msg"].startswith(f"analysis.checks{text}")
    assert ("pass@" in result["msg"], "\n" in result["msg"]) == (False, False)
    assert api.requests == []


def test_check_mode_asks_now_makes_no_job_and_keeps_secrets(
    api: ApiServer, site: Site, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_preview, "require_clients", lambda *_given: None)
    monkeypatch.setattr(_preview, "RATE_SECONDS", 0.01)
    site.status = 503
    page = {"url": site.url, "secret_headers": {"Authorization": "Bearer very-secret"}}
    checks = [{"name": "page", "http": page}, {"name": "smoke", "job": {"template": TEMPLATE}}]
    result = run("istio_canary", check=True, **CANARY, analysis={"checks": checks})
    assert result["checks"] == [
        {"name": "page", "state": "failed", "text": f"{site.url} answers 503, has to be 200"},
        {"name": "smoke", "state": "unknown", "text": "its Job would be made in each step"},
    ]
    assert api.written == []
    assert "very-secret" not in json.dumps(result)
    assert site.asked[0][1]["authorization"] == "Bearer very-secret"
