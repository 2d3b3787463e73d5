# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What modules share: which errors become one line, and which option becomes which number; events and results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.progressive.istio.plugins.module_utils import _cluster
from ansible_collections.progressive.istio.plugins.module_utils._audience import Audience, Match
from ansible_collections.progressive.istio.plugins.module_utils._cluster import ApiError, NoAnswer, path_of
from ansible_collections.progressive.istio.plugins.module_utils._gate import Tolerance
from ansible_collections.progressive.istio.plugins.module_utils._module import (
    ANALYSIS_SPEC,
    connect,
    one_line_errors,
    tolerance,
    want,
)
from ansible_collections.progressive.istio.plugins.module_utils._plan import Outcome, ReleaseError
from ansible_collections.progressive.istio.plugins.module_utils._protocol import (
    Conflict,
    Lost,
    Orphaned,
    Stopped,
    Unreachable,
)
from ansible_collections.progressive.istio.plugins.module_utils._record import Record, RecordError, Step, Version
from ansible_collections.progressive.istio.plugins.module_utils._report import Journal, result_of
from ansible_collections.progressive.istio.plugins.module_utils._routes import RouteError
from ansible_collections.progressive.istio.plugins.module_utils._wish import Goal

ANALYSIS = {name: spec.get("default") for name, spec in ANALYSIS_SPEC.items()}
PARAMS: dict[str, Any] = {
    "on_orphan": None,
    "on_newer": "refuse",
    "queue_timeout": 3600.0,
    "windows": [],
    "freezes": [],
    "max_duration": 0.0,
    "approval_timeout": 0.0,
    "canary_version": "v2",
    "stable_version": "",
    "steps": [
        {"weight": 10, "min_seconds": 60, "mirror": 5, "pause": False},
        {"weight": 100, "min_seconds": 0, "mirror": 0, "pause": False},
    ],
    "cohort": [{"headers": {"x-tester": "yes"}, "cookies": {}, "source_labels": {}}],
    "sticky": {"cookie": "release", "attributes": "Path=/"},
    "state": "promoted",
    "reason": "",
    "analysis": ANALYSIS,
    "verify_timeout": 30.0,
    "drain_timeout": 60.0,
    "floors": "autoscalers",
    "floors_timeout": 300.0,
    "retry": False,
    "adopt": False,
    "goal": None,
    "until_step": None,
    "preflight": "enforce",
    "on_drift": "hold",
}


class Ended(BaseException):
    """As AnsibleModule ends a process."""


class FakeModule:
    """The one method of an AnsibleModule that ends it."""

    def __init__(self) -> None:
        self.told: dict[str, Any] = {}

    def fail_json(self, **told: Any) -> None:
        self.told = told
        raise Ended


def told(error: Exception) -> dict[str, Any]:
    module = FakeModule()
    with pytest.raises(Ended), one_line_errors(module, phase="refused"):
        raise error
    return module.told


@pytest.mark.parametrize(
    "kind", [ReleaseError, RouteError, RecordError, Stopped, Conflict, Lost], ids=lambda kind: str(kind.__name__)
)
def test_errors_for_a_person_are_told_as_they_are(kind: type[Exception]) -> None:
    assert told(kind("what is wrong")) == {"msg": "what is wrong", "phase": "refused"}


def test_errors_of_the_api() -> None:
    assert told(ApiError(403, "no"))["msg"] == "no"
    for error in (NoAnswer("x does not answer"), Unreachable("x does not answer")):
        assert told(error)["msg"] == "x does not answer; mend host or kubeconfig, or run it again when it answers"
    assert told(Orphaned())["msg"] == "the process that this run works for is gone; nothing more was written"


def test_other_errors_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError), one_line_errors(FakeModule()):
        raise ZeroDivisionError


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cluster, "IMPORT_ERROR", "No module named 'websocket'")
    module = FakeModule()
    with pytest.raises(Ended):
        connect(module)
    assert "kubernetes" in module.told["msg"]
    assert "No module named 'websocket'" in module.told["msg"]


def test_options_become_a_wish() -> None:
    found = want({**PARAMS, "analysis": {**ANALYSIS, "tolerance_ratio": 2.0, "max_wait": 61.0}, "until_step": 1})
    assert found.steps == (Step(10, 60, 5), Step(100, 0))
    assert found.audience == Audience((Match({"x-tester": {"exact": "yes"}}, {}),), "release", "Path=/")
    assert (found.canary, found.stable, found.until_step, found.max_wait) == ("v2", "", 1, 61.0)
    assert (found.preflight, want({**PARAMS, "preflight": "warn"}).preflight) == ("enforce", "warn")
    assert (found.orphan, want({**PARAMS, "on_orphan": "resume"}).orphan) == (False, True)
    assert found.tolerance == Tolerance(ratio=2.0)
    assert not found.goal
    wished = want({**PARAMS, "goal": {"failures": None, "minutes": 30.0, "times": 10}})
    assert wished.goal == Goal(minutes=30.0, times=10)


def test_defaults_are_those_of_the_gate() -> None:
    assert tolerance(ANALYSIS) == Tolerance()


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("tolerance_ratio", 0.9, "analysis.tolerance_ratio: expected a number from 1 to 100, got 0.9"),
        ("tolerance_floor", 0.0, "analysis.tolerance_floor: expected a number from 1e-06 to 0.5, got 0.0"),
        ("alpha_fail", 1.0, "analysis.alpha_fail: expected a number from 1e-09 to 0.5, got 1.0"),
        ("alpha_pass", -0.1, "analysis.alpha_pass: expected a number from 1e-09 to 0.5, got -0.1"),
        ("alpha_pass", float("nan"), "analysis.alpha_pass: expected a number from 1e-09 to 0.5, got nan"),
    ],
)
def test_a_wrong_tolerance_names_the_option(option: str, value: float, text: str) -> None:
    with pytest.raises(ReleaseError) as caught:
        want({**PARAMS, "analysis": {**ANALYSIS, option: value}})
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (("v1", "ns", "pods"), "/api/v1/namespaces/ns/pods"),
        (("v1", "", "pods"), "/api/v1/pods"),
        (("apps/v1", "ns", "deployments", "a"), "/apis/apps/v1/namespaces/ns/deployments/a"),
        (("v1", "ns", "pods", "a b?c"), "/api/v1/namespaces/ns/pods/a%20b%3Fc"),
    ],
)
def test_paths(arguments: tuple[str, ...], path: str) -> None:
    assert path_of(*arguments) == path


# ---------------------------------------------------------------- events and results


def test_the_journal_is_for_the_result_and_for_a_reader(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    journal = Journal(str(file), clock=lambda: 3661.0)
    journal.say("one")
    journal.say("two ü")
    expected = [{"time": "01:01:01", "text": "one"}, {"time": "01:01:01", "text": "two ü"}]
    assert journal.events == expected
    assert [json.loads(line) for line in file.read_text("utf-8").splitlines()] == expected


def test_a_journal_that_cannot_be_written_is_told_at_the_end(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "no" / "such" / "folder"), clock=lambda: 0.0)
    journal.say("one")
    journal.say("two")
    assert [event["text"] for event in journal.events] == ["one", "two"]


def outcome_of(phase: str, record: Record | None) -> Outcome:
    return Outcome(
        phase=phase,
        text="waits",
        failed=False,
        finished=True,
        changed=True,
        weight=record.weight if record else 0,
        record=record,
        verdict=None,
        evidence=None,
    )


def test_the_result_of_a_pass() -> None:
    steps = (Step(10), Step(100))
    record = Record("9f3c", "uid", Version("v1", "a"), Version("v2", "b"), steps, 0, "progressing", 1.0, 2.0)
    outcome = outcome_of("progressing", record)
    assert result_of(outcome, []) == {
        "phase": "progressing",
        "failed": False,
        "finished": True,
        "changed": True,
        "weight": 10,
        "events": [],
        "msg": "waits",
        "release_id": "9f3c",
        "step": 1,
        "steps": 2,
        "weights": {"v1": 90, "v2": 10},
    }
    nothing = result_of(outcome_of("none", None), [])
    assert "release_id" not in nothing
    assert "verdict" not in nothing
