# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The release's own state, as it stands in an annotation of the route object. Private to this collection.

Pure. The record is written in the same patch as the weight it speaks of, so the two can never disagree about what
was intended. Its key must not contain ``istio.io``: istiod pushes to every proxy when such an annotation changes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ansible_collections.progressive.istio.plugins.module_utils._audience import Audience, Shown, restored
from ansible_collections.progressive.istio.plugins.module_utils._floors import Floor
from ansible_collections.progressive.istio.plugins.module_utils._floors import restored as restored_floors

ANNOTATION = "progressive.istio/release"
APPROVE = "progressive.istio/approve"  # a person's, with kubectl: release/step
OURS = {"app.kubernetes.io/managed-by": "progressive.istio"}  # a label of objects that are this collection's own
FORMAT = 4  # 1 knows no observe, 2 no previous and no pause, 3 no floors

PROGRESSING, HELD, ABORTED, PROMOTED = "progressing", "held", "aborted", "promoted"
ROLLED_BACK = "rolled_back"  # after it had been promoted
WAITING = "waiting"  # for approval of its next step
ENVIRONMENT = "environment: "  # a reason that begins so blames nobody: the same version may be released again
SUPERSEDED = "superseded by "  # the same, of one that had to make room for a newer version
PHASES = (PROGRESSING, HELD, WAITING, ABORTED, PROMOTED, ROLLED_BACK)
MOST_PREVIOUS = 5


class RecordError(ValueError):
    """The annotation is there and cannot be used; the text is one line for a person."""


@dataclass(frozen=True, slots=True)
class Version:
    """A version by subset name *and* pod template hash: the same name with another template is another version."""

    name: str
    hash: str


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of the plan: canary weight in percent, the least time there in seconds, and how many percent of the
    requests are sent to the canary as well, whose answers nobody gets. ``pause``: somebody has to approve it before.
    """

    weight: int
    min_seconds: int = 0
    mirror: int = 0
    pause: bool = False

    @property
    def judged(self) -> int:
        """By which weight the gate tells this step from others: 1 to 100; 0 is for what is seen before a release."""
        return self.weight or min(max(self.mirror, 1), 99)

    @property
    def title(self) -> str:
        """For messages: ``10 %``, ``mirror 20 %``."""
        return self.change.removeprefix("weight ")

    @property
    def change(self) -> str:
        """The same, for what was or was not done: ``weight 10 %``, ``mirror 20 %``."""
        weight = f"weight {self.weight} %" if self.weight or not self.mirror else ""
        mirror = f"mirror {self.mirror} %" if self.mirror else ""
        return ", ".join(filter(None, (weight, mirror)))


@dataclass(frozen=True, slots=True)
class Approval:
    """Which step (from 1) was approved, by whom, and when (seconds)."""

    step: int
    by: str
    at: float


@dataclass(frozen=True, slots=True)
class Previous:
    """What a release that is over leaves in the record of the next one: how it ended, when (seconds), by whom, why."""

    id: str
    stable: Version
    canary: Version
    phase: str
    at: float
    by: str
    reason: str

    @property
    def rejects(self) -> bool:
        """Whether its canary was sent back, and not for what the cluster has done to it."""
        return self.phase in (ABORTED, ROLLED_BACK) and not self.reason.startswith((ENVIRONMENT, SUPERSEDED))

    @property
    def superseded(self) -> bool:
        """Whether it had to make room for a newer version."""
        return self.phase == ABORTED and self.reason.startswith(SUPERSEDED)


@dataclass(frozen=True, slots=True)
class Record:
    """A release. Times are seconds since the epoch by the API server's clock; ``step`` counts from 0."""

    id: str
    uid: str
    stable: Version
    canary: Version
    steps: tuple[Step, ...]
    step: int
    phase: str
    started: float
    since: float
    by: str = ""
    reason: str = ""
    others: tuple[str, ...] = ()  # ``namespace/name`` of the route objects that follow the one with this record
    audience: Audience = field(default_factory=Audience)
    observe: bool = False  # verdicts are said, and not followed
    retired: str = ""  # the version that was taken out of the route after the release was over
    previous: tuple[Previous, ...] = ()  # the release before; after it, older ones whose canary is still rejected
    approvals: tuple[Approval, ...] = ()
    floors: tuple[Floor, ...] = ()
    begun: bool = True  # not while its first weight waits for pods

    @property
    def running(self) -> bool:
        """Whether it is under way."""
        return self.phase in (PROGRESSING, HELD, WAITING)

    def pauses(self) -> list[int]:
        """The steps to come (from 1) that need an approval and have none."""
        approved = {approval.step for approval in self.approvals}
        steps = enumerate(self.steps, 1)
        return [n for n, step in steps if step.pause and n > self.step + 1 and n not in approved]

    @property
    def pause(self) -> int:
        """The next step (from 1) where it needs an approval and has none, else 0."""
        return self.step + 2 if self.step + 2 in self.pauses() else 0

    def expects(self, text: str) -> bool:
        """Whether an annotation APPROVE is about a step to come of this very release."""
        return self.running and text in [f"{self.id}/{number}" for number in self.pauses()]

    def approved(self, by: str, now: float) -> Record:
        """The same release with its next step approved; the least time of the present one has passed before."""
        approvals = (*self.approvals, Approval(self.pause, by, now))
        since = now - self.present.min_seconds
        return replace(self, phase=PROGRESSING, since=since, reason="", approvals=approvals)

    @property
    def taken_back(self) -> bool:
        """Whether the stable version has all traffic again."""
        return self.phase in (ABORTED, ROLLED_BACK)

    def summary(self) -> Previous:
        """What is kept of it when it is over."""
        return Previous(self.id, self.stable, self.canary, self.phase, self.since, self.by, self.reason)

    def ruling(self, canary: Version) -> Previous | None:
        """How the newest release of this very version ended, if that is known."""
        return next((past for past in (self.summary(), *self.previous) if past.canary == canary), None)

    def history(self) -> tuple[Previous, ...]:
        """For the next release's ``previous``. Of each version's name the newest ending alone says what it is worth."""
        kept = [self.summary()]
        for past in self.previous:
            if past.rejects and past.canary.name not in {newer.canary.name for newer in kept}:
                kept.append(past)
        return tuple(kept[:MOST_PREVIOUS])

    @property
    def present(self) -> Step:
        """The step that it is at."""
        return self.steps[self.step]

    @property
    def place(self) -> str:
        """The same, for messages: ``2/4  25 %``."""
        return f"{self.step + 1}/{len(self.steps)}  {self.present.title}"

    @property
    def weight(self) -> int:
        """The canary weight that this record intends, in percent."""
        return 0 if self.taken_back or not self.begun else self.present.weight

    def weights(self) -> dict[str, int]:
        """Both weights that this record intends, by subset."""
        return {self.stable.name: 100 - self.weight, self.canary.name: self.weight}

    @property
    def shown(self) -> Shown:
        """What the route objects are to have for this audience now; all of it is gone at the end."""
        over, wish = not (self.running and self.begun), self.audience
        mirror = self.present.mirror if any(step.mirror for step in self.steps) else None
        return Shown(
            () if over else wish.cohort,
            wish.cookie,
            self.id if wish.cookie and not over else "",
            wish.attributes,
            mirror and (0 if over else mirror),
        )

    @property
    def made_room(self) -> bool:
        """Whether it was taken back for another pod template of its own version, which is to be released next."""
        return self.summary().superseded and self.reason.startswith(f"{SUPERSEDED}{self.canary.name} of pod template ")

    def at(self, step: int, now: float) -> Record:
        """The record of the same release that goes on to ``step``."""
        return replace(self, step=step, since=now, phase=PROGRESSING, reason="")

    def ended(self, phase: str, now: float, reason: str) -> Record:
        """The record of the same release that is held or over, and why."""
        return replace(self, phase=phase, since=now, reason=reason)

    def dumps(self) -> str:
        """The annotation's text: JSON, keys in a fixed order."""
        return json.dumps({"format": FORMAT, **asdict(self)}, separators=(",", ":"))


def loads(text: str) -> Record:
    """The record in an annotation's text. Raises RecordError for one of a newer format, or a broken one."""
    try:
        data: dict[str, Any] = json.loads(text)
        found = data.pop("format")
    except (ValueError, KeyError, AttributeError, TypeError):
        raise RecordError(_broken("it is not JSON with a 'format'")) from None
    if not isinstance(found, int) or found > FORMAT:
        raise RecordError(
            f"annotation {ANNOTATION} has format {found}, this collection knows {FORMAT}; "
            "finish the release with the newer collection that began it"
        )
    try:
        data["stable"], data["canary"] = Version(**data["stable"]), Version(**data["canary"])
        data["steps"] = tuple(Step(**step) for step in data["steps"])
        data["others"] = tuple(data.get("others", ()))
        data["audience"] = restored(data["audience"]) if "audience" in data else Audience()
        data["approvals"] = tuple(Approval(**approval) for approval in data.get("approvals", ()))
        data["floors"] = restored_floors(data.get("floors", ()))
        data["previous"] = tuple(_previous(past) for past in data.get("previous", ()))
        record = Record(**data)
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(_broken(str(error))) from None
    _check(record)
    return record


def _previous(data: dict[str, Any]) -> Previous:
    past = Previous(**{**data, "stable": Version(**data["stable"]), "canary": Version(**data["canary"])})
    texts = (past.id, past.phase, past.by, past.reason, *asdict(past.stable).values(), *asdict(past.canary).values())
    if not all(isinstance(text, str) for text in texts) or type(past.at) not in (int, float):
        raise TypeError("previous holds texts, and a number as 'at'")
    return past


def _check(record: Record) -> None:
    """Raise RecordError, naming the field, for what nobody but an editor can have written."""
    texts = (record.id, record.uid, record.by, record.reason, record.retired, *record.others)
    names = (*asdict(record.stable).values(), *asdict(record.canary).values())
    if not all(isinstance(text, str) for text in (*texts, *names)):
        raise RecordError(_broken("id, uid, by, reason, retired, others, stable and canary hold text"))
    texts = tuple(approval.by for approval in record.approvals)
    times = [number for approval in record.approvals for number in (approval.step, approval.at)]
    if not all(isinstance(text, str) for text in texts) or not all(type(n) in (int, float) for n in times):
        raise RecordError(_broken("approvals hold a step, a text and a time"))
    if not all(isinstance(step.pause, bool) for step in record.steps):
        raise RecordError(_broken("a step's pause is neither true nor false"))
    for name, value in (("observe", record.observe), ("begun", record.begun)):
        if not isinstance(value, bool):
            raise RecordError(_broken(f"{name} {value!r} is neither true nor false"))
    numbers: list[tuple[str, Any]] = [("step", record.step), *(("weight", s.weight) for s in record.steps)]
    numbers += [("mirror", step.mirror) for step in record.steps]
    for name, number in numbers:
        if not isinstance(number, int) or isinstance(number, bool):
            raise RecordError(_broken(f"{name} {number!r} is not a whole number"))
    for name, seconds in (
        ("started", record.started),
        ("since", record.since),
        *(("min_seconds", s.min_seconds) for s in record.steps),
    ):
        if type(seconds) not in (int, float):
            raise RecordError(_broken(f"{name} {seconds!r} is not a number"))
    if record.phase not in PHASES or not 0 <= record.step < len(record.steps):
        raise RecordError(_broken(f"phase {record.phase!r}, step {record.step} of {len(record.steps)}"))
    if not all(0 <= number <= 100 for step in record.steps for number in (step.weight, step.mirror)):
        raise RecordError(_broken("a step's weight or mirror is not in 0 to 100"))


def _broken(why: str) -> str:
    return (
        f"annotation {ANNOTATION} cannot be read ({why}); somebody edited it: "
        "set the weights by hand, remove the annotation, and start again"
    )
