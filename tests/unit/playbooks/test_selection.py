# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A playbook that selects no host fails; ansible-playbook alone would end with 0."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PLAYBOOKS = Path(__file__).parents[3] / "playbooks"


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    inventory = tmp_path / "inventory"
    inventory.write_text("[fleet]\none\ntwo\n")
    command = [
        str(Path(sys.executable).parent / "ansible-playbook"),
        str(PLAYBOOKS / "load.yml"),
        "--check",
        *arguments,
    ]
    command = [str(inventory) if part == "INVENTORY" else part for part in command]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(
    "arguments",
    [
        ("-e", "target=nobody"),
        ("-i", "INVENTORY", "-e", "target=two", "--limit", "one"),
    ],
)
def test_an_empty_selection_fails(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode != 0
    assert "the inventory has no host of that name or pattern" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "hosts"),
    [
        ((), ["localhost"]),
        (("-i", "INVENTORY", "-e", "target=fleet", "--limit", "two"), ["two"]),
    ],
)
def test_a_selection_is_served(tmp_path: Path, arguments: tuple[str, ...], hosts: list[str]) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.split("TASK [progressive.istio.load : Say what would be sent]")[1].split("TASK [")[0]
    for host in ("localhost", "one", "two"):
        assert (f"ok: [{host}]" in said) == (host in hosts)


def test_every_playbook_begins_with_the_selection() -> None:
    names = sorted(path.stem for path in PLAYBOOKS.glob("*.yml"))
    words = (
        "abort approve deploy forget install load plan promote reconcile resume retire rollback selection status stop"
    )
    assert names == words.split()
    for name in set(names) - {"selection"}:
        lines = (PLAYBOOKS / f"{name}.yml").read_text().splitlines()
        assert lines[3] == "  ansible.builtin.import_playbook: selection.yml", name
