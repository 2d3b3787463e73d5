# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Random releases, and what holds in all of them: 5,000 for each release of ansible-core, others for each.

A seed tells the same story every time: ``tell(seed).trouble``.
"""

from __future__ import annotations

from collections import Counter

import pytest
from ansible.release import __version__
from ansible_collections.progressive.istio.tests.sim.stories import EVENTS, draw, tell

STORIES = 5_000
SOME = 500  # in one test, as none may take long
FIRST = int(__version__.split(".")[1]) * STORIES


@pytest.mark.parametrize("first", range(FIRST, FIRST + STORIES, SOME))
def test_random_releases(first: int) -> None:
    trouble, ends, happened = dict[int, list[str]](), Counter[str](), Counter[str]()
    for seed in range(first, first + SOME):
        try:
            stage = tell(seed)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
        record = stage.record()
        ends[record.phase if record else "none"] += 1
        happened.update({text.partition(" ")[0] for text in stage.happened})
        if stage.trouble:
            trouble[seed] = stage.trouble
    assert not trouble, "\n".join(f"seed {seed}: {'; '.join(texts)}" for seed, texts in sorted(trouble.items())[:20])
    # They are not all of one kind: whatever can happen happened often, and both ends were reached.
    assert min(ends["promoted"], ends["aborted"]) > SOME / 5, ends
    assert all(happened[kind] > SOME / 100 for kind in (*EVENTS, "Killed", "Stopped")), happened


def test_a_story_is_the_same_every_time() -> None:
    assert draw(7) == draw(7)
    first, second = tell(7), tell(7)
    assert (first.weights, first.served, first.time) == (second.weights, second.served, second.time)
