# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The mesh: its proxies, asked in parallel over connections that stay open, and what is around a service. Private."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from ansible_collections.progressive.istio.plugins.module_utils import _proxies, _stats
from ansible_collections.progressive.istio.plugins.module_utils._cluster import (
    NO_FORWARD,
    ApiError,
    Cluster,
    NoAnswer,
)
from ansible_collections.progressive.istio.plugins.module_utils._looks import GRPC, UNAVAILABLE, ProxyLook
from ansible_collections.progressive.istio.plugins.module_utils._metrics import CODES, HOSTS
from ansible_collections.progressive.istio.plugins.module_utils._objects import (
    CONTAINER,
    VersionPod,
    namespace_of,
    proxy_kind,
    seconds_of,
    stays,
)
from ansible_collections.progressive.istio.plugins.module_utils._routes import Object, Route

SELECTOR = "service.istio.io/canonical-name"  # the injector puts it on every sidecar and gateway
ISTIOD, ISTIOD_PORT = "app=istiod", 8080  # its debug interface, which listens to its own pod only
ISTIOD_NAMESPACE = "istio-system"
PARALLEL = 16
READ_MOST = 32  # so many proxies of a larger mesh are read, those that move traffic always; istiod tells of the rest
LIST_SHARE = 0.02  # of the time goes into listing the mesh, at most: it is the dearest of what a release does
LIST_MOST = 10.0  # seconds that a list may be old by that
SILENT = "does not tell"
READY = "/ready"  # of Envoy's admin interface: whether anybody answers there
ABSENT = "no istiod is connected to it"
NETWORKING = "networking.istio.io/v1"
AROUND = (("v1", "namespaces"), ("v1", "pods"), (NETWORKING, "virtualservices"), (NETWORKING, "destinationrules"))
CONTROLLERS = (("flagger.app/v1beta1", "canaries"), ("argoproj.io/v1alpha1", "rollouts"))

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Proxy:
    """One pod with an Istio proxy. ``should_answer``: its proxy is ready and the pod is not on its way out."""

    uid: str
    namespace: str
    pod: str
    epoch: str
    born: float
    should_answer: bool
    gateway: bool = False

    @property
    def name(self) -> str:
        """``namespace/pod``, for messages."""
        return f"{self.namespace}/{self.pod}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a proxy runs for a route: None, it does not have it; empty, what is intended; else what instead, or why."""

    name: str
    runs: str | None


def proxy_of(pod: Mapping[str, Any]) -> Proxy | None:
    """The proxy in a pod, or None: no proxy container, or none that has started."""
    status, meta = pod["status"], pod["metadata"]
    containers = [*(status.get("containerStatuses") or []), *(status.get("initContainerStatuses") or [])]
    container = next((c for c in containers if c["name"] == CONTAINER), None)
    if container is None or "running" not in (container.get("state") or {}):
        return None
    born = seconds_of(str(meta["creationTimestamp"]))
    ready = bool(container.get("ready")) and not meta.get("deletionTimestamp")
    epoch, gateway = str(container.get("restartCount", 0)), proxy_kind(pod) == "router"
    return Proxy(meta["uid"], meta["namespace"], meta["name"], epoch, born, ready, gateway)


def split(proxies: Sequence[Proxy], always: Collection[str], most: int) -> tuple[list[Proxy], list[Proxy]]:
    """Whom to ask and whom not, of many: gateways and those in ``always`` (UIDs) whatever their number, and of the
    others so many that it makes ``most``. UIDs are random, so the first by UID are a sample, and stay the same one.
    """
    wanted = [proxy for proxy in proxies if proxy.gateway or proxy.uid in always]
    others = sorted((p for p in proxies if not p.gateway and p.uid not in always), key=lambda proxy: proxy.uid)
    room = max(0, most - len(wanted))
    return [*wanted, *others[:room]], others[room:]


@dataclass(frozen=True, slots=True)
class Programmed:
    """Proxies that have the route: asked, running the intended weights, and the others, each with what it runs."""

    asked: int
    programmed: int
    lagging: tuple[str, ...]
    rest: str = ""  # what is known of the proxies that were not asked


class Mesh:
    """The proxies of one cluster as last listed."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._pool = ThreadPoolExecutor(max_workers=PARALLEL, thread_name_prefix="proxy")
        self.proxies: tuple[Proxy, ...] = ()
        self.by_stats = False  # no port-forward, so nothing of routes: see fall_back
        self.revisions: Mapping[str, str] = {}  # version by canonical revision, for Istio's own metrics
        self._listed_until = float("-inf")

    def keep_up(self) -> None:
        """List the pods again if it is time: many pods, or a busy runner, less often; at once if one did not answer."""
        if time.monotonic() >= self._listed_until:
            self.refresh()

    def refresh(self) -> None:
        """List the pods again. Raises ApiError and NoAnswer."""
        began = time.monotonic()
        pods = self._cluster.select("v1", "", "pods", SELECTOR)
        took = time.monotonic() - began
        self._listed_until = began + min(LIST_MOST, took / LIST_SHARE)
        self.proxies = tuple(proxy for proxy in map(proxy_of, pods) if proxy)
        self._cluster.forget({(proxy.namespace, proxy.pod) for proxy in self.proxies})

    def fall_back(self, proxies: Sequence[Proxy]) -> str:
        """Where port-forwards are forbidden or blocked: ask for statistics by the pod proxy from now on.

        Returns why not: there is one to another proxy, or statistics cannot be read either.
        """
        path, answer = _stats.path({"": "|none"}), "there is no proxy"
        asked = [proxy for proxy in proxies if proxy.should_answer][:PARALLEL]
        for _proxy, told in self._ask(asked, lambda proxy: self._cluster.admin(proxy.namespace, proxy.pod, READY)):
            if not (isinstance(told, str) and told.startswith(NO_FORWARD)):
                return "there is a port-forward to another proxy"
        for proxy in asked:
            try:
                self._cluster.read(proxy.namespace, proxy.pod, _stats.PORT, path)
            except (NoAnswer, ApiError) as error:
                answer = str(error)
            else:
                self.by_stats = True
                return ""
        return answer

    def _stats(self, proxy: Proxy, backends: _proxies.Backends) -> bytes:
        return self._cluster.read(proxy.namespace, proxy.pod, _stats.PORT, _stats.path(backends))

    def hang_up(self, but: Iterable[Proxy]) -> None:
        """Close the connections to all proxies but these."""
        self._cluster.forget({(proxy.namespace, proxy.pod) for proxy in but})

    def _ask(self, proxies: Sequence[Proxy], question: Callable[[Proxy], T]) -> Iterator[tuple[Proxy, T | str]]:
        """Each proxy's answer, or in words why there is none."""

        def ask(proxy: Proxy) -> T | str:
            try:
                return question(proxy)
            except (NoAnswer, ApiError, _proxies.ProxyError) as error:
                self._listed_until = float("-inf")  # it may be gone
                return str(error)

        return zip(proxies, self._pool.map(ask, proxies), strict=True)

    def lagging(
        self,
        ports: Iterable[int],
        obj: Object,
        route: Route,
        asked: Sequence[Proxy] | None = None,
    ) -> dict[str, Answer]:
        """What the proxies (all, or those ``asked``) run for the route, by pod UID. One that leaves may be silent."""
        return self._routes_of(self.proxies if asked is None else asked, ports, obj, route)

    def having(self, ports: Sequence[int], obj: Object, route: Route) -> Iterator[Answer]:
        """The same of those that have the route, a few at a time: for who wants to know only whether there are any."""
        for start, end in itertools.pairwise((0, *range(1, len(self.proxies), PARALLEL), len(self.proxies))):
            for answer in self._routes_of(self.proxies[start:end], ports, obj, route).values():
                if answer.runs is not None:
                    yield answer

    def _routes_of(
        self, proxies: Sequence[Proxy], ports: Iterable[int], obj: Object, route: Route
    ) -> dict[str, Answer]:
        path = _proxies.routes_path(ports, route.section)

        def question(proxy: Proxy) -> Answer:
            body = self._cluster.admin(proxy.namespace, proxy.pod, path)
            return Answer(proxy.name, _proxies.lag(body, obj, route))

        answers = {}
        for proxy, answer in self._ask(proxies, question):
            if isinstance(answer, Answer):
                answers[proxy.uid] = answer if proxy.should_answer or not answer.runs else Answer(proxy.name, None)
            elif proxy.should_answer:
                answers[proxy.uid] = Answer(proxy.name, f"{SILENT}: {answer}")
        return answers

    def vouched(self, proxies: Sequence[Proxy]) -> dict[str, str] | None:
        """Of proxies that are not read: those that do not have what istiod last sent them, by name, and why.

        None where istiod cannot be asked. It is sound only once other proxies run the change: what istiod has not
        sent yet, it does not miss.
        """
        known, complete = self.told_by_istiod()
        if not complete:
            return None
        return troubles(known, complete, [proxy.name for proxy in proxies if proxy.should_answer])

    def told_by_istiod(self) -> tuple[dict[str, _proxies.Sync], bool]:
        """What the istiods have sent to each of their proxies, by ``namespace/pod``, and whether all of them told.

        Every replica knows its own proxies only. Nobody is asked where a port-forward to istiod is not allowed.
        """
        known: dict[str, _proxies.Sync] = {}
        try:
            for pod in self._istiods():
                if stays(pod):
                    body = self._cluster.admin(namespace_of(pod), pod["metadata"]["name"], _proxies.SYNCZ, ISTIOD_PORT)
                    known |= _proxies.parse_syncz(body)
        except (NoAnswer, ApiError, _proxies.ProxyError):
            return known, False
        return known, bool(known)

    def _istiods(self) -> Sequence[Mapping[str, Any]]:
        """Wherever they are; in the usual namespace for who may list pods in no other."""
        try:
            return self._cluster.select("v1", "", "pods", ISTIOD)
        except ApiError as error:
            if error.status != 403:
                raise
            return self._cluster.select("v1", ISTIOD_NAMESPACE, "pods", ISTIOD)

    def counters(
        self, proxies: Sequence[Proxy], backends: _proxies.Backends
    ) -> Iterator[tuple[Proxy, ProxyLook | str]]:
        """What each proxy counted towards the versions: whole requests where it has those counters
        (epoch ``requests:...``), attempts otherwise (``attempts:...``), nothing yet (``idle:...``).
        """
        stats, clusters = _proxies.stats_path(backends), _proxies.clusters_path(backends)

        def question(proxy: Proxy) -> ProxyLook:
            if self.by_stats:
                body = self._stats(proxy, backends)
                told, (grpc, unavailable) = _stats.sent(body, backends, self.revisions), _stats.statuses(body, backends)
                epoch, also = f"{'requests' if told else 'idle'}:{proxy.epoch}", {GRPC: grpc, UNAVAILABLE: unavailable}
                return ProxyLook(proxy.name, epoch, proxy.born, told, also)
            sent = _proxies.parse_stats(self._cluster.admin(proxy.namespace, proxy.pod, stats), backends)
            body = self._cluster.admin(proxy.namespace, proxy.pod, clusters)
            attempts, _healthy = _proxies.parse_clusters(body, backends)
            flows = _proxies.parse_flows(body, backends)
            unit = "requests" if sent else "attempts" if any(total for total, *_rest in flows.values()) else "idle"
            return ProxyLook(
                proxy.name,
                f"{unit}:{proxy.epoch}",
                proxy.born,
                sent.counts if sent else attempts,
                {
                    HOSTS: attempts,
                    CODES: sent.codes if sent else {},
                    GRPC: sent.grpc if sent else {},
                    UNAVAILABLE: sent.unavailable if sent else {},
                },
                flows,
                sent.histograms if sent else {},
            )

        return self._ask(proxies, question)

    def served(self, pods: Mapping[str, VersionPod], backends: _proxies.Backends) -> Iterator[tuple[str, ProxyLook]]:
        """What has come in at the proxies of the versions' own pods (by UID), without those that do not tell."""

        def question(proxy: Proxy) -> ProxyLook:
            pod = pods[proxy.uid]
            if self.by_stats:
                counts = _stats.come_in(self._stats(proxy, backends), pod.ports)
            else:
                body = self._cluster.admin(proxy.namespace, proxy.pod, _proxies.INBOUND)
                counts = _proxies.parse_inbound(body, pod.ports)
            return ProxyLook(proxy.name, f"served:{proxy.epoch}", proxy.born, dict.fromkeys(pod.versions, counts))

        answers = self._ask([proxy for proxy in self.proxies if proxy.uid in pods], question)
        return ((proxy.uid, answer) for proxy, answer in answers if isinstance(answer, ProxyLook))

    def healthy(self, proxies: Sequence[Proxy], backends: _proxies.Backends, version: str) -> dict[str, int | str]:
        """By ``namespace/pod``: how many healthy endpoints each proxy has for a version, or why it does not tell."""
        path = _proxies.clusters_path(backends)

        def question(proxy: Proxy) -> int:
            if self.by_stats:  # what is not among the statistics is left to Kubernetes' word
                return _stats.healthy(self._stats(proxy, backends), backends).get(version, 1)
            body = self._cluster.admin(proxy.namespace, proxy.pod, path)
            return _proxies.parse_clusters(body, backends)[1].get(version, 0)

        return {proxy.name: answer for proxy, answer in self._ask(proxies, question)}

    def leading_to(self, proxies: Sequence[Proxy], ports: Iterable[int], key: str) -> dict[str, str]:
        """By pod UID of the proxies that answer: which objects' routes lead to ``subset|full host``, or why not known.

        Empty: none. A proxy that leaves may be silent.
        """
        path = _proxies.routes_path(ports)

        def question(proxy: Proxy) -> list[str]:
            return _proxies.leads_to(self._cluster.admin(proxy.namespace, proxy.pod, path), key)

        answers = {}
        for proxy, answer in self._ask(proxies, question):
            if not isinstance(answer, str):
                answers[proxy.uid] = f"routes there for {', '.join(answer)}" if answer else ""
            elif proxy.should_answer:
                answers[proxy.uid] = f"{SILENT}: {answer}"
        return answers

    def in_flight(self, proxies: Sequence[Proxy], key: str) -> dict[str, int | str]:
        """By ``namespace/pod`` of the proxies that know ``subset|full host``: requests under way, or why not known."""
        path = _proxies.clusters_path({"": key})

        def question(proxy: Proxy) -> tuple[int | None]:
            return (_proxies.in_flight(self._cluster.admin(proxy.namespace, proxy.pod, path), key),)

        answers: dict[str, int | str] = {}
        for proxy, answer in self._ask(proxies, question):
            if isinstance(answer, str):
                if proxy.should_answer:
                    answers[proxy.name] = f"{SILENT}: {answer}"
            elif answer[0] is not None:
                answers[proxy.name] = answer[0]
        return answers

    def endpoints(self, proxies: Sequence[Proxy], backends: _proxies.Backends) -> dict[str, dict[str, int] | str]:
        """By ``namespace/pod``: healthy endpoints of every backend whose clusters a proxy knows, or why not known."""
        path = _proxies.clusters_path(backends)

        def question(proxy: Proxy) -> dict[str, int]:
            if self.by_stats:
                return _stats.healthy(self._stats(proxy, backends), backends)
            return _proxies.parse_clusters(self._cluster.admin(proxy.namespace, proxy.pod, path), backends)[1]

        asked = [proxy for proxy in proxies if proxy.should_answer]
        return {proxy.name: answer for proxy, answer in self._ask(asked, question)}


def troubles(known: Mapping[str, _proxies.Sync], complete: bool, names: Iterable[str]) -> dict[str, str]:
    """What the istiods' word means for proxies: by ``namespace/pod``, what is wrong with those that have trouble.

    ``known`` and ``complete`` as Mesh.told_by_istiod returns them. One that no istiod knows is not connected if all of
    them told; if not, nothing is known of it.
    """
    found = {name: known[name].trouble if name in known else ABSENT if complete else "" for name in names}
    return {name: text for name, text in found.items() if text}


def told_with_reasons(mesh: Mesh, lagging: Mapping[str, str]) -> list[str]:
    """A text for each proxy that lags behind: its name, what it runs instead, and what istiod says about it."""
    why = troubles(*mesh.told_by_istiod(), lagging)
    return [f"{name} {runs}" + (f", {why[name]}" if name in why else "") for name, runs in sorted(lagging.items())]


def around(cluster: Cluster, namespace: str) -> tuple[dict[str, Sequence[Object]], dict[str, str]]:
    """All that may have a say in the weights, by plural; and in words, what of it may not be listed.

    Of what may not be listed in the whole cluster, there is what may be read in the service's namespace.
    """
    found: dict[str, Sequence[Object]] = {}
    unseen: dict[str, str] = {}
    for group_version, plural in (*AROUND, *CONTROLLERS):
        wide = (group_version, plural) in AROUND
        objects = _listed(cluster, group_version, "" if wide else namespace, plural)
        if objects is None:
            name = f"{plural}.{group_version.partition('/')[0]}" if "/" in group_version else plural
            unseen[plural] = f"{name} {'outside' if wide else 'in'} namespace {namespace}"
            objects = _listed(cluster, group_version, namespace, plural) if wide else None
        found[plural] = objects or ()
    return found, unseen


def _listed(cluster: Cluster, group_version: str, namespace: str, plural: str) -> Sequence[Object] | None:
    """Objects of a kind, none where nobody has installed it; None where the account may not read them."""
    try:
        if plural == "namespaces" and namespace:
            own = cluster.get(group_version, "", plural, namespace)
            return [own] if own else []
        return cluster.select(group_version, namespace, plural)
    except ApiError as error:
        if error.status == 404:
            return []
        if error.status == 403:
            return None
        raise
