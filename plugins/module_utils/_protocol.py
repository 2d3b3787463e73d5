# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a release needs of the world around it, and how that can fail. Private to this collection.

``_world.py`` is the real one; tests/sim has a simulated one with a clock of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ansible_collections.progressive.istio.plugins.module_utils._capacity import Capacity
from ansible_collections.progressive.istio.plugins.module_utils._checks import About, Answer, Check
from ansible_collections.progressive.istio.plugins.module_utils._counters import Counter, Samples
from ansible_collections.progressive.istio.plugins.module_utils._evidence import Evidence
from ansible_collections.progressive.istio.plugins.module_utils._floors import Floor, Scaler, Supply
from ansible_collections.progressive.istio.plugins.module_utils._looks import Look
from ansible_collections.progressive.istio.plugins.module_utils._objects import Finding
from ansible_collections.progressive.istio.plugins.module_utils._plan import Other, State
from ansible_collections.progressive.istio.plugins.module_utils._record import Record


class Unreachable(Exception):
    """The API server did not answer a read; nothing is known, nothing was changed."""


class Conflict(Exception):
    """The object changed since it was read; nothing was written."""


class Lost(Exception):
    """The answer to a write did not arrive, or is an error of the API server's own; it may have happened."""


class Orphaned(Exception):
    """The process that this run works for is gone; not one more write."""


class Stopped(Exception):
    """Somebody else acts on this release; this run stops and changes nothing."""


class Drifted(Stopped):
    """Somebody else changed the weights between our look and our write; nothing was written."""


class Programmed(Protocol):
    """What the proxies run: how many were asked, how many run the intended weights, and who does not."""

    @property
    def asked(self) -> int:
        """Proxies that have the route."""

    @property
    def programmed(self) -> int:
        """Those that run the intended weights."""

    @property
    def lagging(self) -> tuple[str, ...]:
        """Those that do not: each by name, with what it runs instead."""

    @property
    def rest(self) -> str:
        """What is known of the proxies of a large mesh that were not asked; empty where all were."""


class Asker(Protocol):
    """Who asks the user's own checks."""

    def rehearse(self, checks: Sequence[Check], subject: About) -> None:
        """Try what can be tried without a write. Raises ReleaseError for what cannot work."""

    def ask(self, check: Check, subject: About) -> Answer | None:
        """Begin to ask, or bring the answer; None while there is none yet. Does not raise."""

    def tidy(self, jobs: Sequence[str]) -> None:
        """Delete these Jobs of checks. Does not raise."""


class CounterAsker(Protocol):
    """Who asks the user's own counters."""

    def rehearse(self, counters: Sequence[Counter], versions: Sequence[str]) -> None:
        """Ask once, and write nothing. Raises ReleaseError for what cannot work."""

    def ask(self, counter: Counter, versions: Sequence[str], seconds: float) -> Samples | None:
        """Begin to ask for the last ``seconds``, or bring the samples; None while there are none. Does not raise."""


class Teller(Protocol):
    """Who tells those that look at the Service and not at this run."""

    def tell(self, reason: str, text: str, warning: bool = False) -> None:
        """As a Kubernetes Event. Does not raise, whatever happens."""


class FloorKeeper(Protocol):
    """Who reads and sets how many pods the versions have at least."""

    def read(self, versions: Sequence[str], workloads: bool) -> Mapping[str, Supply]:
        """What each of them has; ``workloads``: also of workloads without an autoscaler. Raises Unreachable.

        Nothing where floors cannot be kept at all, which is said once.
        """

    def find(self, floor: Floor) -> Scaler | None:
        """The object of a floor as it is now; None where it is gone. Raises Unreachable."""

    def set(self, scaler: Scaler, value: int) -> None:
        """Its minimum, as it was read, to this value. Raises Conflict, Lost, or ReleaseError where it is refused."""


#: Who holds a lease that was given back, or was never there.
NOBODY = "nobody"


class World(Protocol):
    """All that a release sees and does; times are the API server's, in seconds.

    Every method may raise Unreachable but for those that ask proxies, which tell it proxy by proxy.
    """

    def now(self) -> float:
        """Seconds since the epoch."""

    def sleep(self, seconds: float) -> None:
        """Let time pass."""

    def alive(self) -> bool:
        """Whether the process that started this run still exists."""

    def observe(self) -> State:
        """Route object, record and workloads, as they are now."""

    def preflight(self, state: State, look: Look) -> Sequence[Finding]:
        """What would keep the weights from the clients. ``look``: who has sent requests to the service."""

    def rehearse(self, state: State, record: Record) -> None:
        """Make all patches of a release and write none. Raises ReleaseError for what cannot be put into a route."""

    def after(self, state: State, record: Record) -> State:
        """What would be there when ``record`` and its weights were written on what ``state`` read."""

    def write(self, state: State, record: Record, move: bool) -> None:
        """Record and, with ``move``, its weights in one patch on what ``state`` read. Raises Conflict or Lost."""

    def follow(self, other: Other, record: Record) -> None:
        """The record's weights on another route object, as ``other`` was read. Raises Conflict or Lost."""

    def programmed(self, state: State) -> Programmed:
        """Compare the proxies with the weights that ``state`` read."""

    def by_weight(self, state: State) -> bool:
        """Whether it is known that weights alone decide which requests the versions of the record get.

        So no other route leads to one of them, and no third version has a share.
        """

    def without_endpoint(self, version: str) -> tuple[str, ...]:
        """Client proxies that have no healthy endpoint of a version, each by name with why."""

    def capacity(self) -> Capacity:
        """What the versions are short of, as far as anybody tells. Does not raise."""

    @property
    def checks(self) -> Asker:
        """Who asks the user's own checks."""

    @property
    def counters(self) -> CounterAsker:
        """Who asks the user's own counters."""

    @property
    def events(self) -> Teller:
        """Who tells others."""

    @property
    def floors(self) -> FloorKeeper:
        """Who keeps the floors of the versions."""

    def look(self) -> Look:
        """The counters of all proxies that send requests to the service."""

    def pod_names(self) -> Mapping[str, str]:
        """Names of the versions' pods by ``address:port``, as proxies call them."""

    def by_hand(self, state: State, record: Record) -> str:
        """The command that gives all weight to the stable version without any of this."""

    def load_evidence(self) -> Evidence | None:
        """What was stored last, of whichever release; None when nothing usable is there."""

    def save_evidence(self, evidence: Evidence) -> None:
        """Store it, in place of what was stored before."""

    def acquire(self, left: bool = False) -> str:
        """Take the lease; the empty string, or who has it. Waits as long as it takes to know that a holder is dead.

        ``left``: only from a run that has died; `NOBODY` has it where it was given back.
        """

    def renew(self) -> bool:
        """Keep the lease; False when somebody else has taken it."""

    def release_lease(self) -> None:
        """Give the lease back."""

    def identity(self) -> str:
        """Who runs this, for the record."""
