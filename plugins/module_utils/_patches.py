# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is written into a route object: weights, record, what it shows to whom. Private to this collection.

Pure. Everything is one JSON Patch of the object as it was read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.progressive.istio.plugins.module_utils import _routes, _shown
from ansible_collections.progressive.istio.plugins.module_utils._plan import Other, State
from ansible_collections.progressive.istio.plugins.module_utils._record import ANNOTATION, APPROVE, PROMOTED, Record


@dataclass(frozen=True, slots=True)
class Token:
    """What a write is based on: the object as read, and the route in it."""

    obj: Mapping[str, Any]
    route: _routes.Route


def token_of(state: State | Other) -> Token:
    """What a state of the LiveWorld, or another route object in it, was read from."""
    if not isinstance(state.token, Token):
        raise TypeError("this state does not come from a cluster")
    return state.token


def tokens_of(state: State) -> dict[str, Token]:
    """Of all route objects, by how they are called in messages; the one with the record is the first."""
    return {state.where: token_of(state), **{other.where: token_of(other) for other in state.others}}


def patch_for(token: Token, record: Record, move: bool = True) -> list[_routes.Operation]:
    """For the object with the record: that, and unless ``move`` is false all that it intends."""
    stable, canary = record.stable.name, record.canary.name
    note = {ANNOTATION: record.dumps()}
    spent = _spent(token, record)
    if not move:
        return [*_routes.weight_patch(token.obj, token.route, {}, note), *spent]
    clone = (stable, canary) if canary not in token.route.weights() else None
    patch = [*_routes.weight_patch(token.obj, token.route, record.weights(), note, clone), *spent]
    return _with_shown(token, record, patch)


def _spent(token: Token, record: Record) -> list[_routes.Operation]:
    """Take out an approval that is used, or was for something else."""
    text = (token.obj["metadata"].get("annotations") or {}).get(APPROVE)
    if text is None or record.expects(text):
        return []
    return [{"op": "remove", "path": f"/metadata/annotations/{APPROVE.replace('/', '~1')}"}]


def follow_patch(token: Token, record: Record) -> list[_routes.Operation]:
    """For one that moves along."""
    stable, canary, weights = record.stable.name, record.canary.name, record.weights()
    if canary in token.route.weights():
        patch = _routes.weight_patch(token.obj, token.route, weights)
    elif record.taken_back:
        patch = _routes.weight_patch(token.obj, token.route, {stable: weights[stable]})
    else:
        patch = _routes.weight_patch(token.obj, token.route, weights, clone=(stable, canary))
    return _with_shown(token, record, patch)


def after(state: State, record: Record, host: str, route_name: str) -> State:
    """What would be there when the record and its weights were written everywhere."""

    def written(token: Token, patch: list[_routes.Operation], name: str) -> Token:
        obj = _routes.apply_patch(token.obj, patch)
        return Token(obj, _routes.pick_route(obj, host, record.canary.name, name))

    token = token_of(state)
    there = written(token, patch_for(token, record), route_name)
    moved = [(other, written(token_of(other), follow_patch(token_of(other), record), "")) for other in state.others]
    others = tuple(replace(other, weights=t.route.weights(), token=t, astray="") for other, t in moved)
    return replace(state, weights=there.route.weights(), record=record, token=there, others=others, astray="")


def _with_shown(token: Token, record: Record, patch: list[_routes.Operation]) -> list[_routes.Operation]:
    there = _routes.apply_patch(token.obj, patch)
    more = _shown.patch(there, token.route, record.canary.name, record.shown)
    return [*patch, *(more[1:] if patch else more)]  # pinned once


def rehearse(tokens: Iterable[Token], record: Record) -> None:
    """Raise RouteError for a step that could not be written, before the first one is."""
    for token in tokens:
        if any(step.mirror for step in record.steps):
            _shown.refuse_foreign_mirror(token.obj, token.route, record.canary.name)
        for step in range(len(record.steps)):
            patch_for(token, record.at(step, record.since))


def astray(token: Token, record: Record) -> str:
    """What somebody else has changed of what the record shows, in words, or nothing."""
    return _shown.astray(token.obj, token.route, record.canary.name, record.shown)


def left_behind(other: Other, record: Record) -> bool:
    """Whether a release that is over has left something here that is its own."""
    there = other.has(record.weights())
    return bool(there and other.astray) if record.phase == PROMOTED else not there or bool(other.astray)


def by_hand(kind: str, token: Token, record: Record) -> str:
    """The kubectl command with which a person gives stable all traffic of this object."""
    stable, versions = record.stable.name, (record.stable.name, record.canary.name)
    patch = [
        operation
        for destination in token.route.destinations
        if destination.version in versions
        for operation in _routes.by_hand(token.obj, token.route, destination, 100 * (destination.version == stable))
    ]
    patch += _shown.take_out(token.obj, token.route.section)
    meta = token.obj["metadata"]
    where = f"-n {meta['namespace']} patch {kind.lower()} {meta['name']}"
    return f"kubectl {where} --type=json -p '{json.dumps(patch, separators=(',', ':'))}'"


def visible(patch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a patch changes, without what guards it."""
    return [op for op in patch if op["op"] != "test" and "resourceVersion" not in op["path"]]


def shown_difference(state: State, record: Record) -> dict[str, Any] | list[dict[str, Any]]:
    """Of the next write: one, or one for each route object."""
    token = token_of(state)
    patches = {state.where: (token, patch_for(token, record))}
    for other in state.others:
        patches[other.where] = (token_of(other), follow_patch(token_of(other), record))
    diffs = [
        {
            "before": quiet(token.obj),
            "after": quiet(_routes.apply_patch(token.obj, patch)),
            "before_header": where,
            "after_header": where,
        }
        for where, (token, patch) in patches.items()
    ]
    return diffs if state.others else diffs[0]


def quiet(obj: Mapping[str, Any]) -> dict[str, Any]:
    """What is shown of an object in a difference."""
    meta = {k: v for k, v in obj["metadata"].items() if k in ("name", "namespace", "labels", "annotations")}
    return {"metadata": meta, "spec": obj["spec"]}
