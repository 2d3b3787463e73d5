# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual environments and collection roots of a checkout, all of them outside it.

Under the cache (`PROGRESSIVE_ISTIO_CACHE`, default `~/.cache/progressive-istio`):

* `env/<name>`: a virtual environment with the exact versions of `requirements-<name>.txt`.
* `collections/kubernetes.core-<ansible release>`: the one collection that we need,
  taken out of the package `ansible`.
* `collections/<checkout>` and `collections/<checkout>-<name>`: a collection root for each environment, in which
  `progressive/istio` is a link to the checkout; `<checkout>` is a digest of its path.
* `home`: the home directory for ansible-test, which keeps its own virtual environments under `~/.ansible`.

Everything is stamped with what it was made from: a second call only compares.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
RECIPE = "1"  # Part of every stamp: raise it when the same inputs have to be installed differently.


class SetupError(Exception):
    """The machine lacks something; the message is one line that says what to install."""


@dataclass(frozen=True, slots=True)
class Environment:
    """One supported combination.

    `pythons` are the interpreters that fit, the one that we test with first. `ansible` is the release of the package
    `ansible` whose kubernetes.core is used. `bootstrap` is the file with which its ansible-test starts pip.
    """

    name: str
    pythons: tuple[str, ...]
    ansible: str
    bootstrap: str

    @property
    def requirements(self) -> Path:
        return CHECKOUT / "tests" / "env" / f"requirements-{self.name}.txt"

    @property
    def venv(self) -> Path:
        return cache() / "env" / self.name

    @property
    def bin(self) -> Path:
        return self.venv / "bin"

    @property
    def kubernetes_core(self) -> Path:
        return cache() / "collections" / f"kubernetes.core-{self.ansible}"

    @property
    def collections(self) -> Path:
        """The collection root with links: for playbooks, pytest and mypy."""
        suffix = "" if self.name == MAIN else f"-{self.name}"
        return cache() / "collections" / f"{checkout_id()}{suffix}"

    @property
    def stamp(self) -> Path:
        return self.venv / ".progressive-istio"

    def digest(self) -> str:
        """What the virtual environment is made from."""
        content = "\n".join((RECIPE, self.name, self.ansible, str(self.venv), self.requirements.read_text("utf-8")))
        return hashlib.sha256(content.encode()).hexdigest()

    def ready(self) -> bool:
        python = self.bin / "python"
        made_from = self.stamp.read_text("utf-8") if self.stamp.is_file() else ""
        return made_from == self.digest() and python.exists() and linked(self)


MAIN = "core-2.21"
# kubernetes.core 6.6.0 and 5.2.0, the newest and the oldest that galaxy.yml allows.
ENVIRONMENTS = {
    "core-2.21": Environment("core-2.21", ("3.12", "3.13", "3.14"), "14.5.0", "get_pip_25_2.py"),
    "core-2.19": Environment("core-2.19", ("3.11", "3.12", "3.13"), "11.5.0", "get_pip_24_2.py"),
}

# ansible-test fetches this file from a server of its own; ensurepip and the usual package index do the same work.
BOOTSTRAP = """\
import os, subprocess, sys
arguments = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
subprocess.run([sys.executable, "-m", "ensurepip", "--default-pip"], check=True, stdout=subprocess.DEVNULL)
os.execv(sys.executable, [sys.executable, "-m", "pip", "install", "--quiet", *arguments])
"""


def cache() -> Path:
    """The folder for everything that is made."""
    named = os.environ.get("PROGRESSIVE_ISTIO_CACHE")
    return Path(named).absolute() if named else Path.home() / ".cache" / "progressive-istio"


def checkout_id() -> str:
    """Twelve hexadecimal digits that stand for the path of this checkout."""
    return hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:12]


def links(environment: Environment) -> dict[Path, Path]:
    """Link and target of everything in the environment's collection root."""
    root = environment.collections / "ansible_collections"
    return {root / "progressive" / "istio": CHECKOUT, root / "kubernetes" / "core": environment.kubernetes_core}


def linked(environment: Environment) -> bool:
    wanted = links(environment).items()
    return all(link.is_symlink() and link.readlink() == target and target.exists() for link, target in wanted)


def variables(environment: Environment) -> dict[str, str]:
    """Environment variables that make the environment the current one."""
    return {
        "ANSIBLE_COLLECTIONS_PATH": str(environment.collections),
        "PATH": f"{environment.bin}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "VIRTUAL_ENV": str(environment.venv),
    }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(what: str, command: Sequence[str | Path]) -> None:
    """Run a command of the set-up; its output is shown only when it fails.

    Raises SetupError with `what` and the last lines of the output.
    """
    words = [str(word) for word in command]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        tail = "\n  ".join(done.stdout.strip().splitlines()[-12:])
        raise SetupError(f"{what}: `{Path(command[0]).name}` ended with {done.returncode}:\n  {tail}")


def version_of(python: str) -> str:
    """`major.minor` of an interpreter, empty when it does not run (a pyenv shim of a version that is not selected)."""
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def find_python(environment: Environment) -> str:
    """The interpreter for an environment: PYTHON312 and the like, PATH, pyenv's folder, in this order.

    Raises SetupError naming what to install.
    """
    for version in environment.pythons:
        variable = "PYTHON" + version.replace(".", "")
        named = os.environ.get(variable)
        if named:
            if version_of(named) != version:
                raise SetupError(f"{variable}={named} is not a Python {version}: unset it or name one")
            return named
        pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
        candidates = [shutil.which(f"python{version}"), f"/usr/bin/python{version}"]
        candidates += [str(path) for path in sorted(pyenv.glob(f"{version}.*/bin/python{version}"), reverse=True)]
        for candidate in candidates:
            if candidate and version_of(candidate) == version:
                return candidate
    first = environment.pythons[0]
    wanted = " or ".join(environment.pythons)
    variable = f"PYTHON{first.replace('.', '')}"
    raise SetupError(
        f"{environment.name} needs Python {wanted} and none was found: install python{first} or set {variable} to it"
    )


def need_ensurepip(python: str) -> None:
    """Debian keeps ensurepip in a package of its own: install it where we may, else say so."""
    if subprocess.run([python, "-c", "import ensurepip"], capture_output=True, check=False).returncode == 0:
        return
    package = f"python{version_of(python)}-venv"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise SetupError(f"{python} cannot make virtual environments: install {package}")
    say(f"env: installing {package}")
    run("package lists", ["apt-get", "-qq", "update"])
    run(package, ["apt-get", "-qqy", "install", package])


def plain(package: str) -> str:
    """The name of a package in the one spelling by which two spellings are compared."""
    return re.sub(r"[-_.]+", "-", package).lower()


def pip_of(environment: Environment) -> list[str]:
    return [str(environment.bin / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]


def make_venv(environment: Environment) -> None:
    """Install the pinned requirements, into the old virtual environment if it works; the stamp is written last."""
    python = find_python(environment)
    need_ensurepip(python)
    began = time.monotonic()
    pins = [line for line in environment.requirements.read_text("utf-8").splitlines() if "==" in line]
    about = max(20, len(pins) * 2 // 3)
    say(f"env {environment.name}: {len(pins)} packages for Python {version_of(python)}, about {about} s")
    pip = pip_of(environment)
    if not environment.stamp.is_file() or version_of(pip[0]) != version_of(python):
        shutil.rmtree(environment.venv, ignore_errors=True)
        environment.venv.parent.mkdir(parents=True, exist_ok=True)
        run(environment.name, [python, "-m", "venv", environment.venv])
    run(environment.name, [*pip, "install", "--no-deps", "--requirement", environment.requirements])
    names = {plain(pin.partition("==")[0]) for pin in pins} | {"pip", "setuptools"}
    listed = subprocess.run([*pip, "list", "--format=freeze"], capture_output=True, text=True, check=False).stdout
    extra = [name for name in re.findall(r"^(\S+)==", listed, re.MULTILINE) if plain(name) not in names]
    if extra:
        run(environment.name, [*pip, "uninstall", "--yes", *extra])
    run(environment.name, [*pip, "check"])
    make_kubernetes_core(environment)
    environment.stamp.write_text(environment.digest(), "utf-8")
    say(f"env {environment.name}: ready after {time.monotonic() - began:.0f} s")


def make_kubernetes_core(environment: Environment) -> None:
    """Take kubernetes.core, and nothing else, out of the package `ansible`."""
    target = environment.kubernetes_core
    if target.is_dir():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    say(f"kubernetes.core: out of ansible {environment.ansible}, about 5 s")
    prefix = "ansible_collections/kubernetes/core/"
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unpack-") as name:
        folder = Path(name)
        pip = pip_of(environment)
        run("kubernetes.core", [*pip, "download", "--no-deps", "--dest", folder, f"ansible=={environment.ansible}"])
        wheel = next(folder.glob("ansible-*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder, [member for member in archive.namelist() if member.startswith(prefix)])
        (folder / prefix).rename(target)


def make_links(environment: Environment) -> None:
    for link, target in links(environment).items():
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_symlink() and link.readlink() == target:
            continue
        if link.is_symlink():
            link.unlink()
        link.symlink_to(target)


def make_home() -> Path:
    """A home directory for ansible-test, so that the user's `~/.ansible` stays as it is; with pip's settings."""
    home = cache() / "home"
    folder = home / ".ansible" / "test" / "cache"
    folder.mkdir(parents=True, exist_ok=True)
    for environment in ENVIRONMENTS.values():
        (folder / environment.bootstrap).write_text(BOOTSTRAP, "utf-8")
    for name in (".config/pip", ".pip", ".netrc"):
        theirs, ours = Path.home() / name, home / name
        if theirs.exists() and not ours.exists():
            ours.parent.mkdir(parents=True, exist_ok=True)
            ours.symlink_to(theirs)
    return home


@contextmanager
def locked() -> Iterator[None]:
    """One set-up at a time for each cache."""
    folder = cache() / "env"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("env: another set-up is running, waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def prepare(environment: Environment) -> None:
    """Make the environment and its collection root, where they are missing or made from something else."""
    if environment.ready():
        return
    with locked():
        made_from = environment.stamp.read_text("utf-8") if environment.stamp.is_file() else ""
        if made_from != environment.digest() or not (environment.bin / "python").exists():
            make_venv(environment)
        make_kubernetes_core(environment)
        make_links(environment)


def any_environment() -> Environment:
    """The main environment, or the other one on a machine that has only its Python: enough to run playbooks."""
    main = ENVIRONMENTS[MAIN]
    if main.ready():
        return main
    try:
        find_python(main)
        return main
    except SetupError as error:
        for environment in ENVIRONMENTS.values():
            if environment is not main:
                try:
                    find_python(environment)
                except SetupError:
                    continue
                say(f"{error}; going on with {environment.name}")
                return environment
        raise


def main() -> int:
    parser = argparse.ArgumentParser(description="Make virtual environments and collection roots.")
    parser.add_argument("--env", action="append", choices=sorted(ENVIRONMENTS), help="only this one (may be repeated)")
    parser.add_argument("--any", action="store_true", help=f"only {MAIN}, or what this machine has a Python for")
    parser.add_argument("--print", action="store_true", help="as --any, and print shell lines that make it current")
    arguments = parser.parse_args()
    try:
        if arguments.env:
            chosen = [ENVIRONMENTS[name] for name in arguments.env]
        elif arguments.any or arguments.print:
            chosen = [any_environment()]
        else:
            chosen = list(ENVIRONMENTS.values())
        for environment in chosen:
            prepare(environment)
    except SetupError as error:
        say(f"tests/env/setup: {error}")
        return 1
    if arguments.print:
        first = chosen[0]
        print(f"export ANSIBLE_COLLECTIONS_PATH={shlex.quote(str(first.collections))}")
        print(f"export VIRTUAL_ENV={shlex.quote(str(first.venv))}")
        print(f'export PATH={shlex.quote(str(first.bin))}:"$PATH"')
    return 0


if __name__ == "__main__":
    sys.exit(main())
