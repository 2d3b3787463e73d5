# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a process still lives, told with real children: killed, zombie, and a number that is used again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._run import (
    Run,
    handed_down,
    is_dead,
    new_id,
    process,
    started,
    who,
)

Child = subprocess.Popen[bytes]


@pytest.fixture
def child() -> Iterator[Child]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as running:
        yield running
        running.kill()


def test_a_living_process(child: Child) -> None:
    known = process(child.pid)
    assert known["pid"] == child.pid
    assert started(child.pid).isdigit()
    assert not is_dead(known)
    assert not is_dead(process(os.getpid()))


def test_a_killed_process(child: Child) -> None:
    known = process(child.pid)
    child.kill()
    child.wait()
    assert is_dead(known)
    assert Run.knows_dead(known)


def test_a_zombie_is_dead(child: Child) -> None:
    """Nobody has asked for its exit status yet, so its number is still taken."""
    known = process(child.pid)
    child.kill()
    deadline = time.monotonic() + 10
    while ") Z " not in (stat := Path(f"/proc/{child.pid}/stat").read_text("utf-8")):
        assert time.monotonic() < deadline, stat
        time.sleep(0.01)
    assert started(child.pid) == ""
    assert is_dead(known)


def test_a_number_that_is_used_again(child: Child) -> None:
    known = {**process(child.pid), "start": str(int(started(child.pid)) - 1)}
    assert is_dead(known)


def test_nothing_is_known_of_another_boot_or_namespace(child: Child) -> None:
    known = process(child.pid)
    child.kill()
    child.wait()
    assert not is_dead({**known, "boot": "another"})
    assert not is_dead({**known, "ns": "pid:[1]"})


def test_a_process_may_have_any_name(tmp_path: Path) -> None:
    """The name stands in the file that tells the start, with blanks, brackets and letters of any language."""
    program = tmp_path / "a) S 1 (ü"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([str(program), "60"]) as running:
        deadline = time.monotonic() + 10
        while b"(a) S 1" not in Path(f"/proc/{running.pid}/stat").read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        known = process(running.pid)
        assert str(known["start"]).isdigit()
        assert not is_dead(known)
        running.kill()
        running.wait()
    assert is_dead(known)


def test_a_run_lives_by_all_its_processes(child: Child) -> None:
    run = Run({"id": "host/1", "processes": [process(os.getpid()), process(child.pid)]})
    assert run.id == "host/1"
    assert run.process == process(os.getpid())
    assert run.alive()
    child.kill()
    child.wait()
    assert not run.alive()


def test_a_module_alone_lives_by_its_parent() -> None:
    run = Run()
    assert run.process["pid"] == os.getppid()
    assert run.alive()


def test_an_orphan_notices() -> None:
    """A grandchild whose parent is killed is not the run's any more, though it goes on living."""
    code = (
        "import os, sys, time\n"
        "from ansible_collections.progressive.istio.plugins.module_utils._run import Run\n"
        "if os.fork():\n"
        "    time.sleep(60)\n"
        "run = Run()\n"
        "print(run.alive(), flush=True)\n"
        "sys.stdin.readline()\n"
        "print(run.alive(), flush=True)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
    ) as parent:
        assert parent.stdout
        assert parent.stdin
        assert parent.stdout.readline() == b"True\n"
        parent.kill()
        parent.wait()
        parent.stdin.write(b"\n")
        parent.stdin.flush()
        assert parent.stdout.readline() == b"False\n"


def test_identities() -> None:
    first, second = new_id(), new_id()
    assert first != second
    assert "/" in first
    assert "@" in who()
    given = handed_down()
    assert [proc["pid"] for proc in given["processes"]] == [os.getppid(), os.getpid()]
    assert Run(given).alive()
