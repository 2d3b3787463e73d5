# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The README's picture of a run is the recording that `tests/demo/run --record docs/demo.txt` wrote, word for word."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_run_in_the_readme_is_the_recording() -> None:
    recording = (ROOT / "docs/demo.txt").read_text(encoding="utf-8").strip()
    assert len(recording.splitlines()) > 20
    assert f"```text\n{recording}\n```" in (ROOT / "README.md").read_text(encoding="utf-8")
