# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection as it is shipped: built, looked into, installed into an empty folder and used from another one."""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from pathlib import Path

from environment import CHECKOUT, Environment, variables
from running import Failed, Log

LIMIT = 500_000  # bytes of the tarball: the code, its docs and the results' texts are some 330,000; raw counts are more
SHIPPED = {
    "CHANGELOG.rst",
    "COPYING",
    "FILES.json",
    "MANIFEST.json",
    "README.md",
    "bindep.txt",
    "changelogs",
    "docs",
    "examples",
    "meta",
    "playbooks",
    "plugins",
    "requirements.txt",
    "roles",
}
NEVER = {"__pycache__", "molecule", "tests", "venv"}


def unwanted(members: list[str]) -> list[str]:
    """Members of the tarball that only developers need: an unknown top-level name, a hidden file, a cache."""
    found = []
    for member in members:
        parts = Path(member).parts
        hidden = any(part in NEVER or part.startswith(".") or part.endswith(".pyc") for part in parts)
        if parts[0] not in SHIPPED or hidden:
            found.append(member)
    return found


def check_collection(environment: Environment, log: Log) -> int:
    """Number of things checked: size, content, and the documentation or syntax of each module, role and playbook."""
    with tempfile.TemporaryDirectory(prefix="progressive-istio-") as name:
        folder = Path(name)
        paths = {**variables(environment), "ANSIBLE_COLLECTIONS_PATH": str(folder / "root")}
        galaxy: list[str | Path] = [environment.bin / "ansible-galaxy", "collection"]
        log.run([*galaxy, "build", "--output-path", folder, CHECKOUT], environment=paths)
        tarball = next(folder.glob("progressive-istio-*.tar.gz"))
        size = tarball.stat().st_size
        with tarfile.open(tarball) as archive:
            members = [member.name for member in archive.getmembers() if member.isfile()]
        log.write(f"{tarball.name}: {size} bytes, {len(members)} files")
        if size > LIMIT:
            raise Failed(f"{tarball.name} has {size} bytes, {LIMIT} are allowed: extend build_ignore in galaxy.yml")
        wrong = unwanted(members)
        if wrong:
            raise Failed(f"{tarball.name} holds {wrong[0]} ({len(wrong)} such files): see build_ignore in galaxy.yml")
        options: list[str | Path] = ["--offline", "--no-deps", "--collections-path", folder / "root"]
        log.run([*galaxy, "install", *options, tarball], environment=paths)
        (folder / "root" / "ansible_collections" / "kubernetes").mkdir()
        (folder / "root" / "ansible_collections" / "kubernetes" / "core").symlink_to(environment.kubernetes_core)
        return 2 + use(environment, log, folder, paths)


def use(environment: Environment, log: Log, folder: Path, paths: dict[str, str]) -> int:
    """Read every module's and role's documentation and parse every playbook of the installed collection."""
    installed = folder / "root" / "ansible_collections" / "progressive" / "istio"
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    names: dict[str, list[str]] = {
        "module": sorted(path.stem for path in (installed / "plugins" / "modules").glob("*.py")),
        "role": sorted(path.parent.parent.name for path in (installed / "roles").glob("*/meta/argument_specs.yml")),
    }
    checked = 0
    for kind, found in names.items():
        full = [f"progressive.istio.{name}" for name in found]
        if not full:
            raise Failed(f"the installed collection has no {kind} with documentation")
        show: list[str | Path] = [environment.bin / "ansible-doc", "--type", kind, *full]
        text = log.run(show, cwd=elsewhere, environment={**paths, "PAGER": "cat"})
        missing = [name for name in full if name not in text and name.upper() not in text]
        if missing:
            raise Failed(f"ansible-doc does not know the {kind} {missing[0]}")
        checked += len(full)
    playbooks = sorted(path.stem for path in (installed / "playbooks").glob("*.yml"))
    if not playbooks:
        raise Failed("the installed collection has no playbook")
    facts = [f"--extra-vars=@{path}" for path in sorted((installed / "examples").glob("hello.yml"))]
    full = [f"progressive.istio.{playbook}" for playbook in playbooks]
    for mode in ("--syntax-check", "--list-tasks"):
        command: list[str | Path] = [environment.bin / "ansible-playbook", *full, mode, *facts]
        log.run([*command, "--extra-vars=canary_version=v2"], cwd=elsewhere, environment=paths, seconds=120)
    return checked + len(full)


def tracked() -> list[str]:
    """The checkout's files as git knows them, those that nobody has added yet included; raises Failed without git."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if listed.returncode:
        raise Failed("git cannot list the files of this checkout: " + listed.stderr.strip())
    return sorted({name for name in listed.stdout.split("\0") if name and (CHECKOUT / name).is_file()})


def copy_for_sanity(root: Path, environment: Environment, log: Log) -> Path:
    """A real copy of the checkout's files (links do not do for ansible-test) in a collection root; returns the copy.

    Left out are files that git ignores, and the lab, which is no part of a collection: ruff and mypy read it. What is
    the same already keeps its time stamp, so that caches stay valid.
    """
    target = root / "ansible_collections" / "progressive" / "istio"
    target.mkdir(parents=True, exist_ok=True)
    wanted = {name for name in tracked() if not name.startswith("tests/lab/")}
    for path in sorted(target.rglob("*"), reverse=True):
        name = path.relative_to(target).as_posix()
        if name.startswith("tests/output"):
            continue
        if (path.is_file() or path.is_symlink()) and name not in wanted:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    for name in sorted(wanted):
        source, copy = CHECKOUT / name, target / name
        content = source.read_bytes()
        if not (copy.is_file() and copy.read_bytes() == content and copy.stat().st_mode == source.stat().st_mode):
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(content)
            copy.chmod(source.stat().st_mode)
    core = root / "ansible_collections" / "kubernetes" / "core"
    core.parent.mkdir(exist_ok=True)
    if not core.is_symlink():
        core.symlink_to(environment.kubernetes_core)
    log.write(f"{len(wanted)} files in {target}")
    return target
