# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of the lab."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from . import engine, plain
from .build import MODES, build, chosen_mode, missing, require
from .cluster import Cluster, audit, down, down_all, import_archive, names, up
from .host import DISK_FOR_UP, check_disk, check_machine
from .paths import CHECKOUT, DEFAULT_CLUSTER, Places, places, project_cache
from .shell import LabError

HELP = """\
build              make everything that `up` needs (once; a second time takes a second)
up [--istio]       make or repair the cluster; --istio installs Istio, too
down [--all]       remove the cluster, and the engine with the last one; --all: every cluster
status             what there is; exit code 0 if the cluster answers
run CMD...         run a command where the cluster can be reached (KUBECONFIG, PATH, LAB_VARS ... are set)
load IMAGE.tar     load a docker archive into the cluster
audit              print the API server's audit log (writes only), one JSON object a line
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lab",
        description="Real kind clusters for tests.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--cluster", default=DEFAULT_CLUSTER, metavar="NAME", help="which cluster (default: %(default)s)"
    )
    parser.add_argument(
        "--mode",
        choices=MODES,
        default="auto",
        help="made: an engine and images of our own; plain: your Docker, published images",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("build")
    verbs.add_parser("up").add_argument("--istio", action="store_true")
    verbs.add_parser("down").add_argument("--all", action="store_true")
    verbs.add_parser("status")
    verbs.add_parser("audit")
    verbs.add_parser("load").add_argument("archive", type=Path)
    verbs.add_parser("run").add_argument("command", nargs=argparse.REMAINDER)
    return parser


def _collections(cache: Path) -> str | None:
    """The collection path in the cache whose progressive.istio is this checkout."""
    for link in sorted(cache.glob("collections/*/ansible_collections/progressive/istio")):
        if link.resolve() == CHECKOUT:
            return str(link.parent.parent.parent)
    return None


def run_environment(cluster: Cluster) -> dict[str, str]:
    """The caller's environment with what a command needs to reach this cluster and no other."""
    where, cache = cluster.places, project_cache()
    env = dict(os.environ)
    path = [str(where.tools)]
    if str(cache / "env") not in env.get("PATH", "") and (cache / "env/core-2.21/bin").is_dir():
        path.append(str(cache / "env/core-2.21/bin"))
    env["PATH"] = ":".join([*path, env.get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")])
    collections = _collections(cache)
    if collections and "ANSIBLE_COLLECTIONS_PATH" not in env:
        env["ANSIBLE_COLLECTIONS_PATH"] = collections
    env.update(
        {
            "KUBECONFIG": str(cluster.kubeconfig),
            "K8S_AUTH_KUBECONFIG": str(cluster.kubeconfig),
            "LAB_CLUSTER": cluster.name,
            "LAB_VARS": str(cluster.variables),
            "KUBECACHEDIR": cluster.env["KUBECACHEDIR"],
            "HELM_CACHE_HOME": cluster.env["HELM_CACHE_HOME"],
            "HELM_CONFIG_HOME": cluster.env["HELM_CONFIG_HOME"],
            "HELM_DATA_HOME": cluster.env["HELM_DATA_HOME"],
        }
    )
    if cluster.mode == "made":
        env["DOCKER_HOST"] = where.docker_socket
        # The API server is on the namespace's own loopback; the user's proxy does not know it.
        for name in ("no_proxy", "NO_PROXY"):
            env[name] = ",".join(
                part for part in (env.get(name, ""), "127.0.0.1,localhost,.svc,.cluster.local") if part
            )
    return env


def _run(cluster: Cluster, command: list[str]) -> int:
    if command[:1] == ["--"]:
        command = command[1:]
    if not command:
        raise LabError("run: expected a command after `run`")
    if not cluster.kubeconfig.exists() or (cluster.mode == "made" and not cluster.places.netns.exists()):
        raise LabError(f"cluster {cluster.name} is not up: `lab --cluster {cluster.name} up`")
    words = [*cluster.prefix, *command]
    env = run_environment(cluster)
    sys.stdout.flush()
    try:
        os.execvpe(words[0], words, env)
    except OSError as exc:
        raise LabError(f"{words[0]}: {exc.strerror}") from exc


def _status(where: Places, mode: str, cluster: Cluster) -> int:
    left = missing(where, mode)
    facts = {
        "mode": mode + (" (plain Docker with published images: not tried)" if mode == "plain" else ""),
        "cache": str(where.cache),
        "build": f"missing: {', '.join(left)}" if left else "complete",
    }
    if mode == "made":
        facts.update(engine.status(where))
    env = engine.docker_env(where) if mode == "made" else plain.docker_env(where)
    good = False
    for name in names(where, mode, env) if "kind" not in left else []:
        one = Cluster(where, name, mode)
        answers = one.answers()
        good = good or (answers and name == cluster.name)
        facts[f"cluster {name}"] = (
            f"answers (KUBECONFIG={one.kubeconfig})"
            if answers
            else f"does not answer: `lab --cluster {name} up` repairs, `down` removes"
        )
    facts.setdefault(f"cluster {cluster.name}", "none")
    for key, value in facts.items():
        print(f"{key:<16} {value}")
    return 0 if good else 1


def _do(arguments: argparse.Namespace) -> int:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", arguments.cluster):
        raise LabError(
            f"--cluster: expected lower-case letters, digits and hyphens, 32 at most, got {arguments.cluster!r}"
        )
    where = places()
    if arguments.verb == "build":
        build(where, arguments.mode)
        return 0
    mode = chosen_mode(where, arguments.mode)
    cluster = Cluster(where, arguments.cluster, mode)
    if arguments.verb == "status":
        return _status(where, mode, cluster)
    if mode == "made":
        check_machine()
    if arguments.verb == "run":
        return _run(cluster, arguments.command)
    if arguments.verb == "down":
        if arguments.all:
            down_all(where, mode)
        else:
            down(cluster)
    elif arguments.verb == "up":
        require(where, mode)
        check_disk(where.cache, DISK_FOR_UP)
        up(cluster, istio=arguments.istio)
    elif not cluster.answers():
        raise LabError(f"cluster {cluster.name} is not up: `lab --cluster {cluster.name} up`")
    elif arguments.verb == "audit":
        sys.stdout.write(audit(cluster))
    else:
        import_archive(cluster, arguments.archive)
    return 0


def main(words: Sequence[str] | None = None) -> int:
    """Entry point: exit code 0, or 1 with one line and the end of the log that explains it."""
    arguments = _parser().parse_args(words)
    try:
        return _do(arguments)
    except LabError as exc:
        for line in exc.tail():
            print(f"    | {line}", file=sys.stderr)
        print(f"lab: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lab: interrupted; `lab up` goes on from here, `lab down` cleans up", file=sys.stderr)
        return 130
