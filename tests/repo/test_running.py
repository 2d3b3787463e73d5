# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The runner of the checks: a failure is seen, a check of nothing is one, and no process is left behind."""

from __future__ import annotations

import os
import time
from pathlib import Path

import checks
import pytest
from running import Failed, Log, Runner, Step, table


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path / "logs", {})


def shell(script: str, seconds: float = 20.0) -> Step:
    def work(log: Log) -> int:
        return len(log.run(["sh", "-c", script], seconds=seconds).splitlines())

    return Step("shell", "group", "about", work)


def test_the_lines_of_the_output_are_counted(runner: Runner) -> None:
    result = runner.one(shell("echo one; echo two >&2"))
    assert (result.ok, result.passed, result.failed) == (True, 2, 0)


def test_a_failure_shows_the_end_of_the_log(runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    result = runner.one(shell("seq 1 100; echo the reason; exit 3"))
    shown = capsys.readouterr().out
    assert not result.ok
    assert "ended with 3" in result.message
    assert "| the reason\n" in shown
    assert "| 1\n" not in shown


def test_a_step_that_checks_nothing_fails(runner: Runner) -> None:
    assert runner.one(shell("true")).message == "it checked nothing"


def test_a_program_that_is_not_there_is_a_failure(runner: Runner) -> None:
    step = Step("absent", "group", "about", lambda log: len(log.run(["no-such-program"])))
    assert "no-such-program" in runner.one(step).message


def test_a_command_that_hangs_is_stopped_with_its_children(runner: Runner, tmp_path: Path) -> None:
    began = time.monotonic()
    result = runner.one(shell(f"sleep 300 & echo $! >{tmp_path}/child; wait", seconds=0.5))
    assert "took longer than" in result.message
    assert time.monotonic() - began < 10
    child = int((tmp_path / "child").read_text("utf-8"))
    while alive(child) and time.monotonic() - began < 30:  # a killed process takes its time on a busy machine
        time.sleep(0.05)
    assert not alive(child)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_needs_a_failed_step_is_not_run_and_counts_as_failed(runner: Runner, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    broken = Step("first", "group", "about", fail)
    dependent = Step("second", "group", "about", lambda _log: mark.write_text("x"), live=True, needs=("first",))
    results = runner.run([broken, dependent])
    assert [result.ok for result in results] == [False, False]
    assert not mark.exists()


def fail(_log: Log) -> int:
    raise Failed("on purpose", passed=3, failed=2)


def test_live_steps_wait_for_those_that_they_come_after(runner: Runner, tmp_path: Path) -> None:
    """Two at a time: the second step starts while the first still runs, the third only when both have ended."""
    log = tmp_path / "log"

    def live(name: str, script: str, *after: str) -> Step:
        return Step(name, "group", "about", shell(f"{script}; echo {name} | tee -a {log}").work, live=True, after=after)

    until = f"until grep -qs beside {log}; do sleep 0.05; done"
    steps = [live("first", until), live("last", "true", "first", "beside", "absent"), live("beside", "true")]
    assert all(result.ok for result in runner.run(steps))
    assert log.read_text("utf-8").split() == ["beside", "first", "last"]


def test_the_closing_line_adds_up(runner: Runner) -> None:
    runner.run([Step("bad", "group", "about", fail), shell("echo one")])
    assert table(runner.results).splitlines()[-1] == "4 passed, 2 failed"


def test_what_there_is_no_time_for_is_named_and_counts_neither_as_passed_nor_as_failed(tmp_path: Path) -> None:
    runner = Runner(tmp_path / "logs", {}, late=time.monotonic() - 1)
    optional = Step("long", "group", "about", fail, optional=True)
    runner.run([optional, shell("echo one")])
    assert table(runner.results).splitlines()[-2:] == ["not run: long", "1 passed, 0 failed"]
    assert [result.ok for result in runner.results if result.left_out] == [False]


def test_an_optional_step_that_fails_in_time_has_failed(tmp_path: Path) -> None:
    runner = Runner(tmp_path / "logs", {}, late=time.monotonic() + 3600)
    runner.run([Step("long", "group", "about", fail, optional=True)])
    assert table(runner.results).splitlines()[-1] == "3 passed, 2 failed"


def test_only_long_scenarios_may_be_left_out() -> None:
    assert {step.group for step in checks.all_steps() if step.optional} == {"long"}


def test_after_a_stop_nothing_is_started(runner: Runner) -> None:
    runner.commands.stop()
    assert runner.one(shell("echo one")).message == "interrupted"


@pytest.mark.parametrize("chosen", [{"molecule"}, {"long"}, {"molecule", "long"}])
def test_no_two_scenarios_install_istio_at_once(chosen: set[str]) -> None:
    """Whichever groups are chosen, one scenario alone goes before all others that need Istio."""
    steps = [step for step in checks.all_steps() if step.group in chosen and step.name.startswith("molecule/")]
    names = {step.name for step in steps}
    waits = {step.name: names & set(step.after) for step in steps}
    done = names & {"molecule/mesh"}  # begins and ends without Istio
    first = [name for name in names - done if waits[name] <= done]
    assert len(first) == 1
    assert {name for name in names - done if waits[name] <= done | set(first)} > set(first)
