# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bench of counters says of every counter what it saw, and the documentation says nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.progressive.istio.tests.bench import counters, failures, seen
from environment import CHECKOUT

NEWEST = sorted((CHECKOUT / "docs" / "results").glob("counters-*.json"))[-1]


def row(kind: str, client: str, own: int, **saw: tuple[int, int] | None) -> dict[str, Any]:
    """A row of a result; counters that are not named the proxy does not have."""
    every = {column.name: saw.get(column.name) for column in seen.COLUMNS}
    return {"kind": kind, "client": client, "sent": 300, "own": own, "codes": {"500": own} if own else {}, "saw": every}


@pytest.mark.parametrize(
    ("saw", "own", "said"),
    [
        (None, 60, "-"),
        ((300, 0), 60, "none"),
        ((300, 1), 60, "none"),
        ((300, 2), 60, "3 %"),
        ((300, 56), 60, "93 %"),
        ((300, 57), 60, "all"),
        ((300, 63), 60, "all"),
        ((900, 180), 60, "3.0 times"),
        ((300, 0), 0, "none"),
        ((600, 12), 0, "none"),
        ((600, 13), 0, "attempts"),
    ],
)
def test_what_a_counter_saw_in_words(saw: tuple[int, int] | None, own: int, said: str) -> None:
    assert seen.word(saw, own) == said


ROWS = [
    row("errors", seen.WIDE, 60, cluster=(300, 60), hosts=(300, 60), stats=(300, 60)),
    row("errors", seen.DEFAULT, 50, hosts=(300, 150)),
    row("retried", seen.WIDE, 0, cluster=(300, 0), hosts=(400, 100), stats=(300, 0)),
    row("retried", seen.DEFAULT, 0, hosts=(300, 0)),
]


def test_each_counter_is_quoted_from_the_client_that_is_judged_by_it() -> None:
    lines = seen.short(ROWS).splitlines()
    assert lines[2:] == [
        "| errors | all | - | 3.0 times | - | all | - |",
        "| retried | none | - | none | - | none | - |",
    ]
    assert {line.count("|") for line in lines} == {len(seen.COLUMNS) + 2}


def test_the_table_has_every_figure_beside_the_clients_own() -> None:
    lines = seen.table(ROWS).splitlines()
    assert lines[1].split() == ["errors", "wide", "300", "60/60", "-", "60/60", "-", "60/60", "-", "500", "60"]
    assert lines[3].split() == ["retried", "wide", "300", "0/0", "-", "100/0", "-", "0/0", "-", "none"]
    assert len(lines) == 1 + len(ROWS)


def test_a_client_has_lost_what_its_second_reading_has_more() -> None:
    before = {"lost_by": {"v1": {"500": 3}, "none": {"timeout": 2}}}
    after = {"lost_by": {"v1": {"500": 7}, "none": {"timeout": 2, "503": 4}, "v2": {"500": 1}}}
    assert counters.lost(before, after) == {"500": 5, "503": 4}


def test_the_newest_result_has_every_kind_at_both_clients_and_its_text_is_made_of_its_numbers() -> None:
    found = json.loads(NEWEST.read_text("utf-8"))
    there = [(one["kind"], one["client"]) for one in found["rows"]]
    assert there == [(kind.what, client) for kind in failures.KINDS for client in failures.PREFIXES]
    assert NEWEST.with_suffix(".txt").read_text("utf-8") == seen.report(found)


def test_what_the_documentation_concludes_is_what_was_measured() -> None:
    rows = json.loads(NEWEST.read_text("utf-8"))["rows"]
    for kind in failures.KINDS:
        wide, default = (next(r for r in rows if (r["kind"], r["client"]) == (kind.what, c)) for c in failures.PREFIXES)
        together = [0, sum(wide["saw"][name][1] for name in (seen.CLUSTER, seen.UNANSWERED))]
        if kind.subset == failures.UNKNOWN or kind.slow:
            assert seen.word(together, wide["own"]) == "none", kind.what
        else:
            assert seen.word(together, wide["own"]) == ("all" if wide["own"] else "none"), kind.what
        if "ready" in kind.faults:
            assert seen.word(default["saw"][seen.HOSTS], default["own"]) == "none", kind.what
        assert (default["saw"][seen.CLUSTER], default["saw"][seen.SLOW]) == (None, None)


def test_the_documentation_quotes_the_newest_result() -> None:
    text = (CHECKOUT / "docs" / "judging.md").read_text("utf-8")
    assert seen.short(json.loads(NEWEST.read_text("utf-8"))["rows"]) in text
    assert f"(results/{NEWEST.with_suffix('.txt').name})" in text
