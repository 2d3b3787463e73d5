# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the lab keeps what: one cache folder, one run folder, one network namespace for each engine."""

from __future__ import annotations

import hashlib
import os
import pwd
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent
CHECKOUT = SOURCE.parent.parent
DEFAULT_CLUSTER = "lab"

KUBERNETES = "1.36.3"
ISTIO = "1.31.0"
ISTIO_MODULE = "istio.io/istio"
REGISTRY = "lab.invalid"


@dataclass(frozen=True)
class Places:
    """The folders and names of one lab.

    cache: what this lab keeps between `down` and `up` (the engine's images, the clusters' files).
    built: what `build` makes; normally below the cache, shared by the tests' own engines.
    name: of the network namespace, the run folder in /run and the parent of all cgroups.
    """

    cache: Path
    built: Path
    name: str

    @property
    def run(self) -> Path:
        """Sockets, pid files and logs of the engine: short (a socket's path has 107 bytes), gone after a reboot."""
        return Path("/run") / self.name

    @property
    def netns(self) -> Path:
        return Path("/run/netns") / self.name

    @property
    def docker_socket(self) -> str:
        return f"unix://{self.run}/docker.sock"

    @property
    def data(self) -> Path:
        """The data root of dockerd and, beside it, of containerd."""
        return self.cache / "engine"

    @property
    def bin(self) -> Path:
        return self.built / "bin"

    @property
    def tools(self) -> Path:
        """The programs that `lab run` puts into PATH."""
        return self.built / "tools"

    @property
    def gateway_api(self) -> Path:
        """The definitions of the Gateway API, one YAML file."""
        return self.built / "gateway-api.yaml"

    def cluster(self, name: str) -> Path:
        return self.cache / "clusters" / name


def project_cache() -> Path:
    """The cache of the whole project: environments, collections, the lab."""
    given = os.environ.get("PROGRESSIVE_ISTIO_CACHE")
    return Path(given).absolute() if given else default_cache()


def default_cache() -> Path:
    return Path.home() / ".cache" / "progressive-istio"


def places() -> Places:
    """The lab of this user and this cache.

    Two caches on one machine (say, that of a fresh clone) must not meet in one namespace, so every cache but root's
    default one adds a hash to the name. LAB_BUILT points an additional engine to results that exist already.
    """
    cache = project_cache() / "lab"
    name = "progressive-istio"
    if cache != Path(pwd.getpwuid(0).pw_dir) / ".cache/progressive-istio/lab":
        name += "-" + hashlib.sha256(str(cache).encode()).hexdigest()[:6]
    built = os.environ.get("LAB_BUILT")
    return Places(cache=cache, built=Path(built).absolute() if built else cache / "built", name=name)
