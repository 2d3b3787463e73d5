# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record in the annotation: it comes back as it was written, and anything else is refused in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._floors import Floor
from ansible_collections.progressive.istio.plugins.module_utils._patches import Token, patch_for
from ansible_collections.progressive.istio.plugins.module_utils._record import (
    ABORTED,
    ANNOTATION,
    APPROVE,
    FORMAT,
    HELD,
    PHASES,
    PROGRESSING,
    PROMOTED,
    WAITING,
    Record,
    RecordError,
    Step,
    Version,
    loads,
)
from ansible_collections.progressive.istio.plugins.module_utils._routes import all_routes, apply_patch
from ansible_collections.progressive.istio.plugins.module_utils._shown import patch
from hypothesis import given, settings
from hypothesis import strategies as st

from .shapes import routed

STEPS = (Step(10, 60), Step(50), Step(100, 5))
RECORD = Record(
    "9f3c21ab", "uid-1", Version("v1", "5fb"), Version("v2", "68c"), STEPS, 1, PROGRESSING, 10.5, 20.25, "me"
)

texts = st.text('aü/~"\\{}\n 0', max_size=8)
times = st.floats(0, 2e9)
records = st.builds(
    Record,
    texts,
    texts,
    st.builds(Version, texts, texts),
    st.builds(Version, texts, texts),
    st.just(STEPS),
    st.integers(0, 2),
    st.sampled_from(PHASES),
    times,
    times,
    texts,
    texts,
)


def data() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RECORD.dumps())
    return found


@settings(max_examples=30, deadline=None)
@given(records)
def test_round_trip(record: Record) -> None:
    assert loads(record.dumps()) == record


def test_the_key_does_not_make_istiod_push() -> None:
    assert "istio.io" not in ANNOTATION


@pytest.mark.parametrize(
    ("phase", "weights"),
    [
        (PROGRESSING, {"v1": 50, "v2": 50}),
        (HELD, {"v1": 50, "v2": 50}),
        (PROMOTED, {"v1": 50, "v2": 50}),
        (ABORTED, {"v1": 100, "v2": 0}),
    ],
)
def test_what_a_record_intends(phase: str, weights: dict[str, int]) -> None:
    assert replace(RECORD, phase=phase).weights() == weights


def test_going_on_and_ending() -> None:
    held = RECORD.ended(HELD, 30.0, "no verdict")
    assert (held.phase, held.since, held.reason, held.step) == (HELD, 30.0, "no verdict", 1)
    later = held.at(2, 40.0)
    assert (later.phase, later.since, later.reason, later.weight) == (PROGRESSING, 40.0, "", 100)
    assert (later.id, later.started, later.steps) == (RECORD.id, RECORD.started, STEPS)


@pytest.mark.parametrize("newer", [FORMAT + 1, 99, "2"])
def test_a_newer_format_is_refused(newer: Any) -> None:
    with pytest.raises(RecordError) as caught:
        loads(json.dumps({**data(), "format": newer, "unknown": 1}))
    assert str(caught.value) == (
        f"annotation progressive.istio/release has format {newer}, this collection knows {FORMAT}; "
        "finish the release with the newer collection that began it"
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is not JSON with a 'format'"),
        ("no", "it is not JSON with a 'format'"),
        ("[]", "it is not JSON with a 'format'"),
        ("3", "it is not JSON with a 'format'"),
        ("{}", "it is not JSON with a 'format'"),
        (RECORD.dumps()[:-1], "it is not JSON with a 'format'"),
        (json.dumps({**data(), "phase": "paused"}), "phase 'paused', step 1 of 3"),
        (json.dumps({**data(), "step": 3}), "phase 'progressing', step 3 of 3"),
        (json.dumps({**data(), "step": -1}), "phase 'progressing', step -1 of 3"),
        (json.dumps({**data(), "steps": []}), "phase 'progressing', step 1 of 0"),
        (json.dumps({k: v for k, v in data().items() if k != "canary"}), "'canary'"),
    ],
)
def test_a_broken_text_is_refused(text: str, why: str) -> None:
    with pytest.raises(RecordError) as caught:
        loads(text)
    assert str(caught.value) == (
        f"annotation progressive.istio/release cannot be read ({why}); somebody edited it: "
        "set the weights by hand, remove the annotation, and start again"
    )


scalars = st.one_of(st.none(), st.booleans(), st.integers(-1, 200), st.floats(0, 9), texts)
anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([*data(), "strange"]), anything)
def test_an_edited_field_is_refused_or_harmless(key: str, value: Any) -> None:
    """Whatever somebody typed in: RecordError, or a record whose weights can be computed and written."""
    text = json.dumps({**data(), key: value})
    try:
        record = loads(text)
    except RecordError:
        return
    assert all(0 <= weight <= 100 for weight in record.weights().values())
    obj = routed("v1=90,v2=10")
    assert isinstance(patch(obj, all_routes(obj)[0], "v2", record.shown), list)
    assert loads(record.ended(HELD, record.since + 1, "x").dumps()).phase == HELD


@pytest.mark.parametrize(
    ("step", "title", "change"),
    [
        (Step(10), "10 %", "weight 10 %"),
        (Step(0), "0 %", "weight 0 %"),
        (Step(0, mirror=20), "mirror 20 %", "mirror 20 %"),
        (Step(10, mirror=20), "10 %, mirror 20 %", "weight 10 %, mirror 20 %"),
    ],
)
def test_a_step_in_words(step: Step, title: str, change: str) -> None:
    assert (step.title, step.change) == (title, change)


WAITS = replace(RECORD, steps=(Step(10), Step(50), Step(100, pause=True)), phase=WAITING)


@pytest.mark.parametrize(("text", "stays"), [("9f3c21ab/3", True), ("9f3c21ab/2", False), ("0badcafe/3", False)])
def test_an_approval_stays_on_the_route_object_only_until_it_is_used(text: str, stays: bool) -> None:
    obj = routed("v1=50,v2=50", annotations={APPROVE: text}, resourceVersion="1")
    token = Token(obj, all_routes(obj)[0])
    assert (APPROVE in apply_patch(obj, patch_for(token, WAITS, move=False))["metadata"]["annotations"]) == stays
    for after in (WAITS.approved("me", 30.0), WAITS.ended(ABORTED, 30.0, "bad")):
        assert APPROVE not in apply_patch(obj, patch_for(token, after))["metadata"]["annotations"]


def test_a_record_of_the_format_before_is_understood() -> None:
    old = data()
    del old["previous"], old["approvals"]
    for step in old["steps"]:
        del step["pause"]
    assert loads(json.dumps({**old, "format": 2})) == RECORD


@pytest.mark.parametrize(
    "broken", [{"approvals": [{"step": 2, "by": 7, "at": 1.0}]}, {"approvals": [{}]}, {"previous": [{"id": "a"}]}]
)
def test_a_broken_history_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(RecordError, match="somebody edited it"):
        loads(json.dumps({**data(), **broken}))


def test_a_record_from_before_floors_has_none_and_has_begun() -> None:
    older = {key: value for key, value in data().items() if key not in ("floors", "begun")}
    assert loads(json.dumps({**older, "format": 3})) == replace(RECORD, floors=(), begun=True)


def test_before_its_first_weight_a_release_intends_what_was_there() -> None:
    floor = Floor("v2", "HorizontalPodAutoscaler", "app-v2", original=2, before=2, value=5, at=1.5)
    waiting = loads(replace(RECORD, begun=False, floors=(floor,)).dumps())
    assert waiting.floors == (floor,)
    assert (waiting.running, waiting.weights()) == (True, {"v1": 100, "v2": 0})
    assert waiting.shown.cohort == ()
