# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who takes the weights of a delegate: its roots are looked at as a route object with hosts is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._objects import View
from ansible_collections.progressive.istio.plugins.module_utils._reach import reach

from .shop import CLEAN, HOST, OLDER, OURS, YOUNGER, beside, destination_rule, ours, pod, route, virtual_service

WEIGHTS = "VirtualService shop/app-1"
TO_OURS = {"name": "api", "delegate": {"name": "app-1", "namespace": "shop"}}


def told(view: View) -> list[tuple[bool, str]]:
    return [(finding.refuse, finding.text) for finding in reach(view)]


def root(name: str = "root", namespace: str = "shop", created: str = OURS, /, **spec: Any) -> dict[str, Any]:
    return virtual_service(name, namespace, created, **{"http": [TO_OURS], **spec})


def delegate(*roots: dict[str, Any], **spec: Any) -> View:
    """The clean mesh, in which ours is a delegate, with these objects."""
    found = ours(hosts=[], **spec)
    return replace(found, virtual_services=(*found.virtual_services, *roots))


def gateway(name: str = "edge", **spec: Any) -> dict[str, Any]:
    return root(name, "ingress", **{"gateways": ["edge"], "hosts": ["shop.example.com"], **spec})


@pytest.mark.parametrize(
    "roots",
    [
        [root()],
        [root("root", "web")],
        [root(gateways=["mesh", "edge"])],
        [root(), gateway()],
        [root(http=[route("v1"), TO_OURS])],
        [root(hosts=["front.example.com"])],
        [root(), root("younger", "shop", YOUNGER)],
    ],
)
def test_nothing_is_found(roots: list[dict[str, Any]]) -> None:
    assert told(delegate(*roots)) == []


def test_nobody_names_it() -> None:
    text = (
        f"{WEIGHTS} has no hosts, and no VirtualService delegates to it: its weights reach nobody; name it as delegate "
        "in a route, or say with route_object which one holds the weights"
    )
    assert told(delegate()) == [(True, text)]
    others = [{"delegate": {"name": "app-1"}}, {"delegate": {"name": "app-10", "namespace": "shop"}}, route("v1")]
    assert told(delegate(root("root", "web", http=others))) == [(True, text)]
    unseen = replace(delegate(), unseen={"virtualservices": "virtualservices outside namespace shop"})
    assert "(of those in namespace shop; no others may be listed)" in told(unseen)[0][1]


def test_named_by_a_delegate() -> None:
    text = (
        f"VirtualService shop/middle delegates to {WEIGHTS} in vain: it has no hosts itself, and istiod does not "
        "delegate twice; give a root that route"
    )
    assert told(delegate(root("middle", hosts=[]))) == [(True, text)]
    assert told(delegate(root("middle", hosts=[]), root())) == [(False, text)]


def test_it_delegates_further() -> None:
    view = delegate(root(), http=[route("v1", "v2"), {"delegate": {"name": "more"}}])
    assert told(view) == [
        (
            False,
            f"{WEIGHTS} has routes that delegate further, and istiod does not delegate twice: leave that to its root",
        )
    ]


def test_a_delegate_that_its_root_may_not_see() -> None:
    text = (
        f"VirtualService ingress/edge delegates to {WEIGHTS} in vain: it is exported to shop only, so istiod drops "
        "that route; add ingress to its exportTo"
    )
    assert told(delegate(gateway(), exportTo=["."])) == [(True, text)]
    assert told(delegate(gateway(), root(), exportTo=["."])) == [(False, text)]
    assert told(delegate(gateway(), root(), exportTo=["shop", "ingress"])) == []


def test_an_older_one_for_the_roots_host() -> None:
    older = virtual_service("older", "web", OLDER)
    text = (
        f"VirtualService web/older is for {HOST} too and is older ({OLDER}, ours {OURS}): sidecars in namespaces "
        "quiet, shop, web take it and ignore VirtualService shop/root; put the routes into one of them, or take the "
        "host out of the other"
    )
    assert told(delegate(root(), older)) == [(True, text)]
    front = ["front.example.com"]
    older = virtual_service("older", "web", OLDER, hosts=front)
    (beaten,) = told(delegate(root(hosts=front), older))
    assert beaten == (True, text.replace(HOST, "front.example.com"))
    assert told(delegate(root(), older)) == [], "it is for other hosts"


def test_a_younger_one_for_the_roots_host() -> None:
    text = (
        f"VirtualService web/younger is for {HOST} too, and sidecars ignore it, as VirtualService shop/root goes "
        "before it; take the host out of it, or delete it"
    )
    assert told(delegate(root(), virtual_service("younger", "web", YOUNGER))) == [(False, text)]


def test_a_root_that_is_not_exported() -> None:
    text = (
        "VirtualService shop/root is exported to . only: sidecars in namespaces quiet, web do not get it, and split by "
        "endpoints; add them to its exportTo"
    )
    assert told(delegate(root(exportTo=["."]))) == [(True, text)]
    view = replace(delegate(root(exportTo=["."])), clients=frozenset())
    assert told(view) == [(False, text)]


@pytest.mark.parametrize("labelled", ["root", "delegate"])
def test_another_revision(labelled: str) -> None:
    label = {"labels": {"istio.io/rev": "canary"}}
    view = delegate(root(**label)) if labelled == "root" else delegate(root(), **label)
    (finding,) = told(view)
    assert finding[0]
    name = "shop/root" if labelled == "root" else "shop/app-1"
    assert finding[1].startswith(f"VirtualService {name} is labelled istio.io/rev=canary, and no proxy in namespaces ")


def test_a_root_of_a_gateway_alone() -> None:
    text = (
        "VirtualService ingress/edge is bound to gateways edge only: sidecars in namespaces quiet, shop, web split by "
        "endpoints, not by its weights; add mesh to its gateways"
    )
    assert told(delegate(gateway())) == [(True, text)], "requests were seen from namespace web"
    assert told(replace(delegate(gateway()), clients=frozenset({"ingress"}))) == [(False, text)]


def test_the_entry_that_delegates_is_for_the_gateway_alone() -> None:
    entry = {"match": [{"gateways": ["shop/edge"]}], **TO_OURS}
    (finding,) = told(delegate(root(gateways=["mesh", "edge"], http=[route("v1"), entry])))
    assert finding[1].startswith("VirtualService shop/root has no http route for mesh: ")


def test_subsets_that_are_hidden_from_a_client() -> None:
    view = delegate(root())
    rule = destination_rule("web", "web", subsets={})
    (finding,) = told(replace(view, destination_rules=(*view.destination_rules, rule)))
    assert (finding[0], "use DestinationRule web/web" in finding[1]) == (True, True)


def test_another_route_object_of_the_release() -> None:
    other = {**virtual_service("part", hosts=[]), "kind": "VirtualService"}
    view = replace(beside("virtual_services", other), others=frozenset({"shop/part"}))
    (finding,) = told(view)
    assert finding[1].startswith("VirtualService shop/part has no hosts, and no VirtualService delegates to it: ")
    assert told(replace(view, others=frozenset())) == []


def test_a_client_with_a_root_of_its_own() -> None:
    """Sidecars of namespace web get one root, the others get the other."""
    mine = root("mine", "web", exportTo=["."])
    view = delegate(root("theirs", exportTo=["shop", "quiet"]), mine)
    assert told(view) == []
    assert CLEAN.clients == {"web"}
    more = replace(view, pods=(*view.pods, pod("late-x", "late")))
    ((refused, text),) = told(more)
    assert (refused, "sidecars in namespace late " in text) == (False, True)
