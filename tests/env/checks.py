# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The project's checks: what `make test` and the smaller targets run.

Set-up (virtual environments, the lab) is done when it is missing. Logs are under the cache, in `logs/<checkout>`.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import takewhile
from operator import ne
from pathlib import Path
from types import FrameType

import environment as env
from collection import check_collection, copy_for_sanity, tracked
from environment import CHECKOUT, ENVIRONMENTS, MAIN, Environment
from running import Failed, Log, Runner, Step, table

CLUSTER = "check"  # the lab's cluster of the molecule scenarios: neither the demo's nor one that somebody works with
LAB = CHECKOUT / "tests" / "lab" / "lab"
OLDEST = "2.19"
INSTALLING = "default"
BARE = "mesh"  # begins and ends without Istio, so it goes first
QUICK = "statistics"  # the first of the others: each installs Istio where it is missing, and two at once cannot
# At the end: one keeps pods from the only node, one needs the whole machine, one moves Istio under what runs beside it.
ALONE = ("nobody", "shapes", "upheaval")
LONG = (
    BARE,
    QUICK,
    "audience",
    "clients",
    "delegates",
    "floors",
    "gitops",
    "incidents",
    "orphaned",
    "own-checks",
    "prometheus",
    "retire",
    "verbs",
    *ALONE,
)
LONGEST_SCENARIO = 900.0  # seconds, on a machine that is busy with another one
SCENARIO_OF_BOTH = "own-objects"  # a whole release by the playbook, short enough for the oldest environment, too
GROUPS = {
    "lint": "ruff, yamllint, ansible-lint, documentation and changelog",
    "types": "mypy, strict, over plugins and tests",
    "repo": "rules of this repository: layers, sizes, variables, versions",
    "unit": "unit tests on both ends of what is supported",
    "sim": "simulated releases",
    "sanity": "ansible-test sanity on both ends of what is supported",
    "collection": "the tarball: size, content, installed and used from elsewhere",
    "lab": "the lab is built, and its own tests",
    "molecule": "every scenario on a cluster of the lab",
    "long": "the long scenarios: Istio by both methods, gateways, GitOps, Prometheus, shapes, incidents; named only",
}


def tool(name: str, *arguments: str) -> Callable[[Log], int]:
    """A step that is one command of the main environment, run in the checkout."""

    def work(log: Log) -> int:
        log.run([ENVIRONMENTS[MAIN].bin / name, *arguments], cwd=CHECKOUT)
        return 1

    return work


def linted(log: Log) -> int:
    """ansible-lint keeps a cache folder in the project: give it one of ours."""
    command = [str(ENVIRONMENTS[MAIN].bin / "ansible-lint"), "--offline", "--nocolor"]
    variables = {"XDG_CACHE_HOME": str(env.cache() / "ansible-lint")}
    log.run(command, cwd=CHECKOUT, environment=variables, seconds=1800)
    return 1


def yaml_linted(log: Log) -> int:
    names = [name for name in tracked() if name.endswith((".yml", ".yaml"))]
    files = [name for name in names if not name.startswith(("tests/lab/", "changelogs/"))]
    log.run([ENVIRONMENTS[MAIN].bin / "yamllint", "--strict", *files], cwd=CHECKOUT)
    return 1


def documented(log: Log) -> int:
    options = ["--plugin-docs", "--validate-collection-refs=self", "--skip-rstcheck"]
    log.run([ENVIRONMENTS[MAIN].bin / "antsibull-docs", "lint-collection-docs", *options, CHECKOUT])
    return 1


def typed(log: Log) -> int:
    """mypy sees the checkout through the collection root, so that our package has one name."""
    environment = ENVIRONMENTS[MAIN]
    checkout = Path("ansible_collections/progressive/istio")
    config = CHECKOUT / "pyproject.toml"
    tests = environment.collections / checkout / "tests"
    searched = (environment.collections, tests / "env", tests / "lab")
    log.run(
        [
            environment.bin / "mypy",
            "--config-file",
            config,
            "--cache-dir",
            env.cache() / "mypy" / env.checkout_id(),
            checkout / "plugins",
            checkout / "tests",
        ],
        cwd=environment.collections,
        environment={"MYPYPATH": os.pathsep.join(str(path) for path in searched)},
    )
    return 1


def tested(environment: Environment, folder: str, log: Log) -> int:
    """Run pytest over a folder; the number of tests that passed. A skipped test counts as failed."""
    output = log.run(
        [environment.bin / "python", "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=5", folder],
        cwd=CHECKOUT,
        environment=env.variables(environment),
        seconds=1800,
        may_fail=True,
    )
    closing = output.strip().splitlines()[-1] if output.strip() else ""
    words = re.findall(r"(\d+) (passed|failed|error|errors|skipped|xfailed)", closing)
    counts = {word: int(number) for number, word in words}
    passed = counts.pop("passed", 0)
    if not re.search(r" in [\d.]+s", closing) or (log.code and not counts):
        raise Failed("pytest did not come to its end", passed=passed)
    if counts or not passed:
        raise Failed(closing.strip("= "), passed=passed, failed=max(1, sum(counts.values())))
    return passed


def referenced(log: Log) -> int:
    """Write the reference as reStructuredText, a file for each module and role."""
    folder = env.cache() / "docs" / env.checkout_id()
    folder.mkdir(parents=True, exist_ok=True)
    options: list[str | Path] = ["--use-current", "--cleanup", "everything", "--squash-hierarchy", "--dest-dir", folder]
    log.run([ENVIRONMENTS[MAIN].bin / "antsibull-docs", "collection", *options, "progressive.istio"])
    files = sorted(folder.glob("*.rst"))
    print("\n".join(str(path) for path in files), flush=True)
    return len(files)


def sane(environment: Environment, log: Log) -> int:
    """ansible-test sanity over a real copy of the checkout, with a home of its own; the number of its tests.

    pylint takes three quarters of the time, and what it says of our code is the same with every core: once is enough.
    """
    root = env.cache() / "collections" / f"{env.checkout_id()}-sanity-{environment.name}"
    copy = copy_for_sanity(root, environment, log)
    python = env.version_of(str(environment.bin / "python"))
    home = env.make_home()
    fewer = [] if environment == ENVIRONMENTS[MAIN] else ["--skip-test", "pylint"]
    output = log.run(
        [environment.bin / "ansible-test", "sanity", "--color", "no", "--python", python, *fewer],
        cwd=copy,
        environment={**env.variables(environment), "HOME": str(home)},
        seconds=1200,
        may_fail=True,
    )
    ran = len(re.findall(r'^Running sanity test "', output, re.MULTILINE))
    summary = re.search(r"FATAL: The (\d+) sanity test", output)
    if summary:
        failed = int(summary[1])
        errors = re.findall(r"^ERROR: (\S+:\d+.*)$", output, re.MULTILINE)
        raise Failed(errors[0] if errors else "see the log", passed=ran - failed, failed=failed)
    if log.code or not ran:
        raise Failed("ansible-test did not come to its end")
    return ran


def lab_built(log: Log) -> int:
    log.run([LAB, "build"], cwd=CHECKOUT, seconds=3600, follow=True)
    return 1


def cluster_up(log: Log) -> int:
    """A new cluster: what an interrupted run may have left in the old one would be tested, too."""
    log.run([LAB, "--cluster", CLUSTER, "down"], cwd=CHECKOUT, seconds=300)
    log.run([LAB, "--cluster", CLUSTER, "up"], cwd=CHECKOUT, seconds=600)
    return 1


def cluster_down(log: Log) -> int:
    log.run([LAB, "--cluster", CLUSTER, "down"], cwd=CHECKOUT, seconds=300)
    return 1


def scenarios() -> list[str]:
    """The one that installs Istio comes first; the others use what it left. Before it comes the one without Istio."""
    names = (path.parent.name for path in CHECKOUT.glob("molecule/*/molecule.yml"))
    return sorted(names, key=lambda name: (name != BARE, name != INSTALLING, name))


def no_scenario(log: Log) -> int:
    raise Failed(f"no scenario matches {CHECKOUT.name}/molecule/*/molecule.yml")


def scenario_passed(name: str, environment: Environment, log: Log) -> int:
    """Run a scenario; the number of assertions that its verify stage made. None at all is a failure."""
    output = log.run(
        [LAB, "--cluster", CLUSTER, "run", environment.bin / "molecule", "test", "--scenario-name", name],
        cwd=CHECKOUT,
        environment={**env.variables(environment), "MOLECULE_GLOB": "molecule/*/molecule.yml"},
        seconds=1500,
    )
    if re.search(r"no hosts matched|Could not match supplied host pattern", output):
        raise Failed(f"a play of molecule/{name} matched no host")
    verified = output.partition(f"[{name} > verify] Executing")[2].partition(f"[{name} > verify] Executed")[0]
    return len(re.findall(r"All assertions passed", verified))


def all_steps() -> list[Step]:
    """Every step, in the order in which they start."""
    main = ENVIRONMENTS[MAIN]
    both = {name.removeprefix("core-"): environment for name, environment in ENVIRONMENTS.items()}
    steps = [Step(f"sanity-{name}", "sanity", f"ansible-core {name}", partial(sane, one)) for name, one in both.items()]
    steps += [
        Step("ruff", "lint", "ruff", tool("ruff", "check", "--no-cache", ".")),
        Step("yamllint", "lint", "yamllint", yaml_linted),
        Step("ansible-lint", "lint", "ansible-lint, profile production", linted),
        Step("changelog", "lint", "changelog fragments", tool("antsibull-changelog", "lint")),
        Step("docs", "lint", "reference documentation", documented),
        Step("types", "types", "mypy", typed),
        Step("repo", "repo", "rules of the repository", partial(tested, main, "tests/repo")),
    ]
    for folder in ("unit", "sim"):
        for name, one in both.items():
            steps.append(Step(f"{folder}-{name}", folder, f"core {name}", partial(tested, one, f"tests/{folder}")))
    steps.append(Step("collection", "collection", "the tarball", partial(check_collection, main)))
    built = ("lab-build",)
    lab = partial(tested, main, "tests/lab")
    steps += [
        Step("lab-build", "lab", "programs and images, minutes the first time", lab_built, live=True),
        Step("cluster-up", "molecule", f"cluster {CLUSTER}", cluster_up, live=True, needs=built),
        Step("lab", "lab", "the lab's own tests", lab, live=True, needs=built),
    ]
    found = scenarios()
    runs = [(f"molecule/{name}", f"scenario {name}", name, main) for name in found]
    if SCENARIO_OF_BOTH in found:
        name = SCENARIO_OF_BOTH
        runs.append((f"molecule/{name}-{OLDEST}", f"scenario {name}, core {OLDEST}", name, both[OLDEST]))
    names = [run[0] for run in runs]
    needs = (*built, "cluster-up")
    for step, about, name, one in runs:
        leading = (BARE, INSTALLING, QUICK) if name in LONG else (BARE, INSTALLING)
        first = [f"molecule/{other}" for other in takewhile(partial(ne, name), leading)]
        if name in ALONE:
            later = [f"molecule/{other}" for other in ALONE[ALONE.index(name) :]]
            first = [other for other in names if other not in later]
        same = [other for other in names[: names.index(step)] if other.startswith(f"molecule/{name}")]
        group = "long" if name in LONG else "molecule"
        work = partial(scenario_passed, name, one)
        optional = group == "long"
        steps.append(Step(step, group, about, work, live=True, needs=needs, after=(*first, *same), optional=optional))
    if not found:
        steps.append(Step("molecule", "molecule", "no scenario", no_scenario))
    end = (*needs, *names)
    steps.append(Step("cluster-down", "molecule", f"cluster {CLUSTER}", cluster_down, live=True, after=end))
    return steps


def surroundings() -> dict[str, str]:
    """Environment variables of every step: the main environment, plain text, and nothing of the user's own Ansible."""
    home = str(env.cache() / "ansible")
    examples = str(env.cache() / "hypothesis" / env.checkout_id())
    ours = {"ANSIBLE_HOME": home, "ANSIBLE_NOCOLOR": "1", "NO_COLOR": "1", "HYPOTHESIS_STORAGE_DIRECTORY": examples}
    return {**env.variables(ENVIRONMENTS[MAIN]), **ours}


def chosen(names: list[str], steps: list[Step]) -> list[Step]:
    """The steps of some groups or of some names, else all but the long ones; with scenarios come what they need."""
    known = {step.group for step in steps} | {step.name for step in steps}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise env.SetupError(f"no step or group is called {unknown[0]}: {', '.join(sorted(known))}")
    wanted = [step for step in steps if {step.name, step.group} & set(names) or (not names and step.group != "long")]
    if any(step.group in ("molecule", "long") for step in wanted):
        around = {"lab-build", "cluster-up", "cluster-down"}
        wanted = [step for step in steps if step in wanted or step.name in around]
    elif any(step.name == "lab" for step in wanted):
        wanted = [step for step in steps if step in wanted or step.name == "lab-build"]
    return wanted


def main() -> int:
    steps = all_steps()
    listed = "\n".join(f"  {name:<12} {about}" for name, about in GROUPS.items())
    parser = argparse.ArgumentParser(
        description="Run the checks: all of them, or those that are named (groups or single steps).",
        epilog=f"groups:\n{listed}\n\nsteps:\n  {' '.join(step.name for step in steps)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--reference", action="store_true", help="only write the reference of modules and roles")
    parser.add_argument(
        "--within",
        type=float,
        metavar="SECONDS",
        help=f"start no long scenario with less than {LONGEST_SCENARIO:.0f} s left; those that did not start are named",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a group or a step")
    arguments = parser.parse_args()
    began = time.monotonic()

    def interrupted(number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    signal.signal(signal.SIGTERM, interrupted)
    try:
        wanted = chosen(arguments.names, steps)
        for environment in ENVIRONMENTS.values():
            env.prepare(environment)
    except env.SetupError as error:
        env.say(f"tests/env/check: {error}")
        return 2
    if arguments.reference:
        wanted = [Step("reference", "reference", "reference of modules and roles", referenced)]
    late = None if arguments.within is None else began + arguments.within - LONGEST_SCENARIO
    runner = Runner(env.cache() / "logs" / env.checkout_id(), surroundings(), late)
    down = next((step for step in wanted if step.name == "cluster-down"), None)
    try:
        results = runner.run(wanted)
    except KeyboardInterrupt:
        runner.commands.stop()
        runner.commands.resume()
        if down and "cluster-up" in runner.started:
            runner.one(down)
        print("interrupted", file=sys.stderr)
        return 130
    print(table(results))
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    return 0 if all(result.ok or result.left_out for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
