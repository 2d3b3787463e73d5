# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What would keep a release's weights from its clients, found before anything is written. Private to this collection.

Pure: a view of the cluster in, findings out. docs/traffic.md has the table of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from ansible_collections.progressive.istio.plugins.module_utils._delegates import MESH
from ansible_collections.progressive.istio.plugins.module_utils._objects import (
    Finding,
    View,
    annotations_of,
    key_of,
    labels_of,
    namespace_of,
    places,
    proxy_kind,
    refusal,
    some,
    stays,
    warning,
)
from ansible_collections.progressive.istio.plugins.module_utils._plan import ReleaseError
from ansible_collections.progressive.istio.plugins.module_utils._reach import (
    REVISION,
    gateways_of,
    host_of,
    pattern_of,
    reach,
    unresolved,
)
from ansible_collections.progressive.istio.plugins.module_utils._routes import (
    RULES,
    Object,
    all_routes,
    describe,
    field_manager,
)

AMBIENT = "istio.io/dataplane-mode"
REDIRECTED = "ambient.istio.io/redirection"  # how its agent marks the pods that it has taken
HTTP = {"http", "http2", "grpc", "http_proxy"}
OTHERS = {"tcp", "udp", "https", "tls", "mongo", "redis", "mysql"}
STANDARD = {"kubernetes.io/h2c": "http2", "kubernetes.io/ws": "http", "kubernetes.io/wss": "https"}
NEVER_SNIFFED = {25, 53, 3306, 27017}
ROLLOUT_HASH = "rollouts-pod-template-hash"
MANAGERS = {"flagger": ("Flagger", "canaries"), "rollouts-controller": ("Argo Rollouts", "rollouts")}


def look_over(view: View) -> list[Finding]:
    """Everything that is found, refusals first."""
    routed = (unresolved, reach, _bypasses) if view.service.kind == "VirtualService" else (_virtual_services,)
    rules = (_ports, _ambient, *routed, _controllers, _bare, _unseen)
    found = [finding for rule in rules for finding in rule(view)]
    return sorted(found, key=lambda finding: not finding.refuse)


def settle(findings: Iterable[Finding], enforce: bool, say: Callable[[str], None]) -> None:
    """Say the warnings. Raises ReleaseError for refusals; where these are not enforced, they are warnings too."""
    refused = [finding.text for finding in findings if finding.refuse and enforce]
    for finding in findings:
        if finding.text not in refused:
            say(f"WARNING  {finding.text}")
    if refused:
        raise ReleaseError("; also: ".join(refused))


# ---------------------------------------------------------------- the service


def _protocol(port: Object) -> str:
    """What istiod takes a port for: ``appProtocol`` before its name; ``http`` also for what Envoy finds out."""
    if port.get("protocol") == "UDP":
        return "udp"
    given = port.get("appProtocol")
    name = str(port.get("name", "") if given is None else STANDARD.get(given, given)).lower().partition("-")[0]
    if name in HTTP | OTHERS:
        return name
    return "tcp" if port["port"] in NEVER_SNIFFED else "http"


def _ports(view: View) -> Iterable[Finding]:
    ports = view.service.obj["spec"].get("ports") or []
    others = [port for port in ports if _protocol(port) not in HTTP]
    if not others:
        return
    told = ", ".join(
        f"{port['port']} ({port.get('appProtocol') or port.get('name') or 'no name'}) is {_protocol(port)}"
        for port in others
    )
    if len(others) == len(ports):
        yield refusal(
            f"no port of {view.name} is HTTP, and weights of http routes act on HTTP only: {told}; set appProtocol to "
            "http, http2 or grpc, or begin the port's name with that",
        )
    else:
        yield warning(
            f"not every port of {view.name} is HTTP: {told}; connections to the others go to all versions, "
            "leave it if that is meant",
        )


# ---------------------------------------------------------------- clients without a proxy


def _captured(view: View) -> dict[str, Object]:
    """Pods that ztunnel has or will have, by name: for their namespace's label or their own, which goes first."""
    modes = _modes(view)
    return {
        key_of(pod): pod
        for pod in view.pods
        if stays(pod)
        and (
            annotations_of(pod).get(REDIRECTED) == "enabled"
            or labels_of(pod).get(AMBIENT, modes.get(namespace_of(pod))) == "ambient"
        )
        and not (proxy_kind(pod) or pod["spec"].get("hostNetwork"))
    }


def _modes(view: View) -> dict[str, str]:
    return {found["metadata"]["name"]: labels_of(found).get(AMBIENT, "") for found in view.namespaces}


def _ambient(view: View) -> Iterable[Finding]:
    captured = _captured(view)
    versions = {key_of(pod) for pods in view.version_pods().values() for pod in pods} & captured.keys()
    instead = "use sidecars there, or an HTTPRoute with one Service for each version"
    home = {name for name, mode in _modes(view).items() if name == view.home and mode == "ambient"}
    if home or versions:
        what = f"Namespace {view.home} is" if home else f"pods of the versions ({some(versions)}) are"
        yield refusal(
            f"{what} in ambient mode ({AMBIENT}): ztunnel knows no weights, and a release reads sidecars and gateways "
            f"only, no waypoints; {instead}",
        )
    others = {namespace_of(pod) for key, pod in captured.items() if key not in versions} - home
    if others:
        yield warning(
            f"pods in {places(others)} are in ambient mode ({AMBIENT}): what they send to {view.name} follows no "
            f"weights that a release sees; {instead}",
        )


def _injected(labels: Mapping[str, str]) -> bool:
    """Whether the namespace asks for sidecars; ``istio-injection`` goes before the revision."""
    return labels.get("istio-injection", "enabled" if REVISION in labels else "") == "enabled"


def _opted_out(pod: Object) -> bool:
    name = "sidecar.istio.io/inject"
    return (labels_of(pod).get(name) or annotations_of(pod).get(name)) == "false"


def _bare(view: View) -> Iterable[Finding]:
    """Pods without a sidecar: those in namespaces that ask for one, and those of the versions."""
    injected = {found["metadata"]["name"] for found in view.namespaces if _injected(labels_of(found))}
    versions, captured = view.version_pods(), _captured(view)
    told = captured.keys() | {key_of(pod) for pods in versions.values() for pod in pods}
    bare = {
        key_of(pod): namespace_of(pod)
        for pod in view.pods
        if namespace_of(pod) in injected
        and key_of(pod) not in told
        and stays(pod)
        and not (proxy_kind(pod) or pod["spec"].get("hostNetwork") or _opted_out(pod))
    }
    if bare:
        yield warning(
            f"{len(bare)} pod{'s' if len(bare) > 1 else ''} in {places(bare.values())}, labelled for injection, "
            f"without a sidecar ({some(bare)}): what they send to {view.name} goes by endpoints, not by weights; "
            "restart them",
        )
    for name, pods in versions.items():
        without = [key_of(pod) for pod in pods if not proxy_kind(pod) and key_of(pod) not in captured]
        if without:
            yield warning(
                f"{len(without)} of {len(pods)} pods of {name} without a sidecar ({some(without)}): requests to them "
                "are counted at their clients only, and what they send follows no weights; label the namespace for "
                f"injection (istio-injection=enabled or {REVISION}) and restart them",
            )


# ---------------------------------------------------------------- others who route or write


def _virtual_services(view: View) -> Iterable[Finding]:
    """VirtualServices beside an HTTPRoute: istiod makes one of it, too, and on a sidecar the oldest of a host wins."""
    for vs in view.virtual_services:
        if MESH in gateways_of(vs) and pattern_of(vs, view.service.host):
            yield refusal(
                f"{describe(vs)} routes {view.service.host} as well as {describe(view.route)}, and on a sidecar only "
                "the older one counts; remove it, or move its weights (route_kind)",
            )


def _bypasses(view: View) -> Iterable[Finding]:
    """Other VirtualServices that send requests to the service: what comes by them does not follow our weights."""
    for vs in view.virtual_services:
        place = namespace_of(vs)
        there = [
            d.subset
            for route in all_routes(vs)
            for d in route.destinations
            if host_of(d.host, place) == view.service.host
        ]
        gateways = [gateway for gateway in gateways_of(vs) if gateway != MESH]
        moved = view.is_ours(vs) or key_of(vs) in view.others
        if moved or not there or (not gateways and pattern_of(vs, view.service.host)):
            continue
        if gateways:
            way = f"by gateway {some(gateways)}"
        else:
            way = f"for {some(vs['spec']['hosts'])}" if vs["spec"].get("hosts") else "by delegation"
        ours = [subset for subset in there if subset in view.versions]
        how = "with weights of its own, which a release does not move" if ours else "without subsets of the release"
        yield warning(
            f"VirtualService {key_of(vs)} sends what comes {way} to {view.name} {how}: that traffic does not follow "
            "the weights; release it along (other_route_objects), or leave it if that is meant",
        )


def _controllers(view: View) -> Iterable[Finding]:
    """Flagger and Argo Rollouts: they would set the weights back, or move the pods away."""
    rules = [
        rule
        for rule in view.destination_rules
        if namespace_of(rule) == view.home and host_of(rule["spec"].get("host", ""), view.home) == view.service.host
    ]
    objects = [view.route, view.service.obj, *rules]
    kinds = ["VirtualService", "Service", *("DestinationRule" for _rule in rules)]
    named = [f"{kind} {key_of(obj)}" for kind, obj in zip(kinds, objects, strict=True)]
    pods = [pod for found in view.version_pods().values() for pod in found]
    owners = {what: who for what, obj in zip(named, objects, strict=True) if (who := _owner(obj))}
    for canary in view.canaries:
        spec = canary["spec"]
        target = (spec.get("targetRef") or {}).get("name", "")
        apex = (spec.get("service") or {}).get("name") or target
        if apex == view.service.obj["metadata"]["name"] or target in {_deployment(pod) for pod in pods}:
            owners[view.name] = f"Flagger (Canary {key_of(canary)})"
    for rollout in view.rollouts:
        for what in _moved(rollout, named):
            owners[what] = f"Argo Rollouts (Rollout {key_of(rollout)})"
    rolled = sorted(key_of(pod) for pod in pods if ROLLOUT_HASH in labels_of(pod))
    if rolled:
        owners[f"pods of the versions ({some(rolled)})"] = "Argo Rollouts"
    for what, obj in zip(named[:1] + named[2:], objects[:1] + objects[2:], strict=True):
        section = "subsets" if obj is not view.route else "http" if view.service.kind == "VirtualService" else RULES
        who, plural = MANAGERS.get(field_manager(obj, section), ("", ""))
        if who and plural in view.unseen:  # else its own objects say whether it still works here
            owners.setdefault(what, f"{who} (it wrote it last)")
    for what, who in owners.items():
        yield refusal(
            f"{who} moves {what} too: two controllers undo each other's weights; end that, or release with it alone",
        )


def _owner(obj: Object) -> str:
    for owner in obj["metadata"].get("ownerReferences") or []:
        group = str(owner.get("apiVersion", "")).partition("/")[0]
        if (group, owner.get("kind")) == ("flagger.app", "Canary"):
            return f"Flagger (Canary {namespace_of(obj)}/{owner['name']})"
        if (group, owner.get("kind")) == ("argoproj.io", "Rollout"):
            return f"Argo Rollouts (Rollout {namespace_of(obj)}/{owner['name']})"
    return ""


def _deployment(pod: Object) -> str:
    """The Deployment behind a pod, by the name of its ReplicaSet."""
    owner = next((o for o in pod["metadata"].get("ownerReferences") or [] if o.get("kind") == "ReplicaSet"), None)
    return str(owner["name"]).removesuffix(f"-{labels_of(pod).get('pod-template-hash', '')}") if owner else ""


def _moved(rollout: Object, named: Sequence[str]) -> list[str]:
    """Those of our objects (``Kind namespace/name``) that a Rollout names as its own."""
    place, strategy = namespace_of(rollout), rollout["spec"].get("strategy") or {}
    canary, blue_green = strategy.get("canary") or {}, strategy.get("blueGreen") or {}
    istio = (canary.get("trafficRouting") or {}).get("istio") or {}
    routes = [istio.get("virtualService") or {}, *(istio.get("virtualServices") or [])]
    found = set()
    for route in routes:  # "name", or "name.namespace"
        name, _dot, other = str(route.get("name", "")).partition(".")
        found.add(f"VirtualService {other or place}/{name}")
    found.add(f"DestinationRule {place}/{(istio.get('destinationRule') or {}).get('name', '')}")
    services = [canary.get(key) for key in ("canaryService", "stableService")]
    services += [blue_green.get(key) for key in ("activeService", "previewService")]
    found |= {f"Service {place}/{name}" for name in services if name}
    return [what for what in named if what in found]


def _unseen(view: View) -> Iterable[Finding]:
    if view.unseen:
        yield warning(
            f"{', '.join(view.unseen.values())} could not be looked at: the account that runs this may not list them. "
            "What they do to the weights is not known; grant it that",
        )
