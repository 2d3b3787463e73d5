# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Counters of the user's own, asked of a Prometheus through the API server; and options that make no sense."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.progressive.istio.plugins.module_utils import _checks_world, _preview
from ansible_collections.progressive.istio.plugins.module_utils._cluster import Cluster
from ansible_collections.progressive.istio.plugins.module_utils._counters import Counter, Samples, said_of
from ansible_collections.progressive.istio.plugins.module_utils._counters_world import CounterReader, counters_of
from ansible_collections.progressive.istio.plugins.module_utils._module import ANALYSIS_SPEC
from ansible_collections.progressive.istio.plugins.module_utils._plan import ReleaseError
from ansible_collections.progressive.istio.plugins.module_utils._prometheus import Series

from .conftest import ApiServer, Json, Run

PATH = "/api/v1/namespaces/monitoring/services/prometheus:9090/proxy/api/v1/query"
PROMETHEUS = {"service": "monitoring/prometheus:9090"}
CANARY: Json = {"namespace": "namespace-1", "name": "app-1", "canary_version": "v2"}
TOTAL, BAD = 'orders_total{version="{version}"}', 'orders_total{version="{version}",result="failed"}'
GIVEN: Json = {"name": "orders", "total": TOTAL, "bad": BAD, "prometheus": PROMETHEUS}
NAMES = ("v2", "v1")


def matrix(*counts: int) -> str:
    now = time.time()
    result = [{"metric": {"pod": f"p-{n}"}, "values": [[now, str(count)]]} for n, count in enumerate(counts)]
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}})


def only(**more: Any) -> Counter:
    result = ArgumentSpecValidator(dict(ANALYSIS_SPEC)).validate({"counters": [{**GIVEN, **more}]})
    assert result.error_messages == []
    (counter,) = counters_of(result.validated_parameters)
    return counter


@pytest.fixture
def reader(api: ApiServer) -> CounterReader:
    return CounterReader(Cluster(SimpleNamespace(params={"host": api.url, "api_key": "secret-token"}, fail_json=None)))


def wait_for(reader: CounterReader, counter: Counter) -> Samples:
    while (answer := reader.ask(counter, NAMES, 60.0)) is None:
        time.sleep(0.01)
    return answer


def test_each_version_is_asked_for_its_raw_samples(api: ApiServer, reader: CounterReader) -> None:
    api.texts[PATH] = matrix(3, 4)
    answer = wait_for(reader, only())
    assert answer.why == ""
    assert list(answer.series) == ["v2", "v1"]
    asked = [parse_qs(query) for path, query in api.queries if path == PATH]
    assert [one["query"][0] for one in asked] == [
        'orders_total{version="v2"}[60s]',
        'orders_total{version="v2",result="failed"}[60s]',
        'orders_total{version="v1"}[60s]',
        'orders_total{version="v1",result="failed"}[60s]',
    ]
    assert len({one["time"][0] for one in asked}) == 1  # both parts as of one moment
    assert said_of(only(), answer) == "v2 7 bad of 7, v1 7 bad of 7"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "Prometheus in Service monitoring/prometheus:9090 answers 404: "),
        ('{"status": "success", "warnings": ["a store is gone"], "data": {}}', "its answer is not complete: a store"),
        ("<html>", "its answer is not Prometheus'"),
    ],
)
def test_what_does_not_answer_counts_nothing(text: str | None, why: str, api: ApiServer, reader: CounterReader) -> None:
    if text is not None:
        api.texts[PATH] = text
    answer = wait_for(reader, only())
    assert answer.series == {}
    assert answer.why.startswith(why)
    reader.rehearse((only(),), NAMES)  # it may answer yet


def test_a_question_that_never_ends_is_given_up(
    reader: CounterReader, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.texts[PATH] = matrix(1)
    monkeypatch.setattr(_checks_world, "GIVEN_UP", -1.0)
    monkeypatch.setattr(CounterReader, "answer", lambda *_given: time.sleep(0.2))
    assert wait_for(reader, only()).why == "there was no answer for -1 s"


def test_what_is_no_promql_and_what_is_no_part_is_refused_before_the_release(
    api: ApiServer, reader: CounterReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def samples(_self: object, counter: Counter, versions: tuple[str, ...], seconds: float) -> Samples:
        assert seconds > 0
        body = json.loads(matrix(5))["data"]["result"]
        bad = [Series(one["metric"], ((1.0, 9),)) for one in body]
        total = [Series(one["metric"], ((1.0, 5),)) for one in body]
        return Samples(1.0, {version: {"total": total, "bad": bad} for version in versions})

    monkeypatch.setattr(CounterReader, "_samples", samples)
    text = "counter orders: bad has counted 9 of v2, and total 5; bad has to be a part of total"
    with pytest.raises(ReleaseError, match=f"^{text}$"):
        reader.rehearse((only(),), NAMES)
    monkeypatch.undo()
    refusal = (400, '{"status": "error", "errorType": "bad_data", "error": "parse error"}')
    known = api.answer
    monkeypatch.setattr(api, "answer", lambda m, path, body: refusal if path == PATH else known(m, path, body))
    with pytest.raises(ReleaseError, match=r"^counter orders: total: .* answers 400: parse error; the query is o"):
        reader.rehearse((only(),), NAMES)
    assert api.written == []


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"name": "A b"}, ".name: expected at most 30 of a-z, 0-9 and -, got 'A b'"),
        ({"name": "errors"}, ".name: 'errors' is judged by that name already; take another one"),
        ({"name": "checks"}, ".name: 'checks' is judged by that name already; take another one"),
        ({"bad": " "}, ".bad: expected the selector of a counter, as in orders_total{version="),
        ({"total": 'sum(rate(x{version="{version}"}[1m]))'}, ".total: expected the selector of a counter, as in"),
        ({"total": 'x{version="{version}"}[5m]'}, ".total: expected the selector of a counter, as in"),
        ({"bad": 'x{version="v2"}'}, ".bad: expected {version} in it, which stands for the name of each version"),
        ({"tolerance_floor": 0.9}, ".tolerance_floor: expected a number from 1e-06 to 0.5, got 0.9"),
        (
            {"prometheus": None},
            ": there is no Prometheus to ask; set analysis.prometheus, or analysis.counters[1].pro",
        ),
        ({"prometheus": {}}, ".prometheus: expected url or service, got neither"),
    ],
)
def test_wrong_counters_are_known_before_anybody_is_asked(more: Json, text: str, api: ApiServer, run: Run) -> None:
    given = {name: value for name, value in {**GIVEN, **more}.items() if value is not None}
    result = run("istio_canary", **CANARY, analysis={"counters": [given]})
    assert result["failed"] is True
    assert result["msg"].startswith(f"analysis.counters[1]{text}")
    assert api.requests == []


def test_names_tell_counters_apart(api: ApiServer, run: Run) -> None:
    result = run("istio_canary", **CANARY, analysis={"counters": [GIVEN, GIVEN]})
    assert result["msg"] == "analysis.counters[2].name: 'orders' is there twice; names tell counters apart"
    assert api.requests == []


def test_check_mode_asks_now_and_says_what_it_cannot_foretell(
    api: ApiServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_preview, "require_clients", lambda *_given: None)
    monkeypatch.setattr(_preview, "RATE_SECONDS", 0.01)
    api.texts[PATH] = matrix(12)
    given = {name: value for name, value in GIVEN.items() if name != "prometheus"}
    result = run("istio_canary", check=True, **CANARY, analysis={"counters": [given], "prometheus": PROMETHEUS})
    (counter,) = result["counters"]
    assert (counter["name"], counter["text"]) == ("orders", "v2 12 bad of 12, v1 12 bad of 12")
    assert counter["queries"][0] == 'orders_total{version="v2"}[240s]'
    assert result["queries"][-2:] == [TOTAL, BAD]
    assert any(line.startswith("orders: judged as well") for line in result["plan_warnings"])
    assert any(event["text"] == "counter orders: v2 12 bad of 12, v1 12 bad of 12" for event in result["events"])
    assert api.written == []
