# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is made of pods and VirtualServices as the API server gives them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._mesh import proxy_of
from ansible_collections.progressive.istio.plugins.module_utils._objects import (
    Service,
    VersionPod,
    proxy_kind,
    record_of,
    version_pods,
    versions_by_service,
    workloads,
)
from ansible_collections.progressive.istio.plugins.module_utils._record import (
    ANNOTATION,
    PROGRESSING,
    PROMOTED,
    Record,
    RecordError,
    Step,
    Version,
)

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
PODS: dict[str, dict[str, Any]] = json.loads((FIXTURES / "pods.json").read_text("utf-8"))
SERVICE = Service(
    "app-1.namespace-1.svc.cluster.local", (80,), {"app": "app-1"}, {"v1": {"version": "v1"}, "v2": {"version": "v2"}}
)


def pod(kind: str = "app", **changes: Any) -> dict[str, Any]:
    """A recorded pod; ``changes`` go into its labels but for ``created``, ``deleted``, ``phase`` and ``ready``."""
    found = copy.deepcopy(PODS[kind])
    meta, status = found["metadata"], found["status"]
    if "created" in changes:
        meta["creationTimestamp"] = changes.pop("created")
    if changes.pop("deleted", False):
        meta["deletionTimestamp"] = "2026-11-23T15:00:00Z"
    status["phase"] = changes.pop("phase", status["phase"])
    if not changes.pop("ready", True):
        status["conditions"] = [{**c, "status": "False"} for c in status["conditions"]]
    labels = {**meta["labels"], **{key.replace("_", "-"): value for key, value in changes.items()}}
    meta["labels"] = {key: value for key, value in labels.items() if value is not None}
    return found


def crashed(
    reason: str, waiting: str = "", name: str = "app", ended: str = "lastState", code: int = 137
) -> dict[str, Any]:
    """A pod with one more container that was terminated so: now, before, or both."""
    found = pod()
    terminated = {"terminated": {"reason": reason, "exitCode": code, "finishedAt": "2026-11-23T15:00:00Z"}}
    state = {"waiting": {"reason": waiting}} if waiting else {"running": {}}
    ends = {place: terminated for place in ("state", "lastState") if ended in (place, "both")}
    status = {"name": name, "restartCount": 3, "state": state, "lastState": {}, **ends}
    found["status"]["containerStatuses"] = [*(found["status"].get("containerStatuses") or []), status]
    return found


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (pod(), ""),
        (crashed("Error"), ""),
        (crashed("Error", "CrashLoopBackOff"), "exit code 137 again and again (app, 3 restarts)"),
        (
            crashed("Error", ended="both"),
            "exit code 137 again and again (app, 3 restarts)",
        ),
        (crashed("Error", ended="state"), ""),
        (crashed("Completed", "CrashLoopBackOff", code=0), ""),
        (crashed("OOMKilled"), "OOMKilled (app, 3 restarts)"),
        (crashed("OOMKilled", ended="state"), "OOMKilled (app, 3 restarts)"),
        (crashed("OOMKilled", name="istio-proxy"), ""),
        (crashed("Error", "ImagePullBackOff"), ""),
        (crashed("ContainerStatusUnknown"), ""),
    ],
)
def test_a_pod_that_crashes_is_told_from_one_that_the_cluster_has_ended(found: dict[str, Any], text: str) -> None:
    crashes = next(one for one in workloads(SERVICE, [found]).values() if one.pods).crashes
    assert [crash.text for crash in crashes] == ([f"{found['metadata']['name']} {text}"] if text else [])
    assert all(crash.at == 1_795_446_000 for crash in crashes)


def stuck(condition: dict[str, str] | None = None, waiting: str = "", init: bool = False) -> dict[str, Any]:
    found = pod(ready=False)
    status = found["status"]
    if condition:
        status["conditions"] = [{"type": "PodScheduled", "status": "False", **condition}]
    if waiting:
        kind = "initContainerStatuses" if init else "containerStatuses"
        status[kind] = [{"name": "app", "image": "shop/app:2", "state": {"waiting": {"reason": waiting}}}]
    return found


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (stuck(), ""),
        (stuck(waiting="ContainerCreating"), ""),
        (stuck(waiting="CrashLoopBackOff"), ""),  # that is the version's own
        (stuck(waiting="ImagePullBackOff"), "ImagePullBackOff shop/app:2"),
        (stuck(waiting="ErrImagePull", init=True), "ErrImagePull shop/app:2"),
        (
            stuck(
                {"reason": "Unschedulable", "message": "0/3 nodes are available: 3 Insufficient cpu. preemption: 0/3"}
            ),
            "Unschedulable, 0/3 nodes are available: 3 Insufficient cpu",
        ),
        (stuck({"reason": "Unschedulable"}), "Unschedulable, no reason given"),
        (stuck({"reason": "Unschedulable", "message": "x" * 500}), f"Unschedulable, {'x' * 160}..."),
        (stuck({"reason": "SchedulingGated"}), ""),
    ],
)
def test_what_keeps_a_pod_from_running_is_said(found: dict[str, Any], text: str) -> None:
    version = next(one for one in workloads(SERVICE, [found]).values() if one.pods)
    assert version.obstacles == ((f"{found['metadata']['name']} {text}",) if text else ())
    assert version.why == (f": {found['metadata']['name']} {text}" if text else "")


def test_a_pod_that_the_cluster_takes_away_is_told_while_it_leaves() -> None:
    evicted, staying = pod(deleted=True), pod()
    target = {"type": "DisruptionTarget", "status": "True", "lastTransitionTime": "2026-11-23T15:00:00Z"}
    evicted["status"]["conditions"] += [{**target, "reason": "EvictionByEvictionAPI"}]
    staying["status"]["conditions"] += [{**target, "status": "False"}]
    version = workloads(SERVICE, [evicted, staying])["v1"]
    text = f"{evicted['metadata']['name']} EvictionByEvictionAPI"
    assert (version.pods, [(one.at, one.text) for one in version.taken]) == (1, [(1_795_446_000, text)])
    assert (version.excuse(1_795_446_000), version.excuse(1_795_446_001)) == (text, "")


def test_the_pods_of_the_versions_and_their_ports() -> None:
    obj = {
        "metadata": {"name": "app-1", "namespace": "namespace-1"},
        "spec": {"ports": [{"port": 80, "targetPort": "web"}, {"port": 81, "targetPort": 8081}, {"port": 82}]},
    }
    subsets = {"v1": {"version": "v1"}, "all": {}, "v9": {"version": "v9"}}
    named = pod()
    named["spec"]["containers"].append({"name": "web", "ports": [{"name": "web", "containerPort": 8080}]})
    other = pod(app="other")
    other["metadata"]["uid"] = "other"
    found = version_pods(Service(SERVICE.host, (80,), SERVICE.selector, subsets, obj), [named, other])
    assert list(found.values()) == [VersionPod(("v1", "all"), frozenset({8080, 8081, 82}))]


def plain_service(name: str, **selector: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "namespace-1"}, "spec": {"selector": selector}}


# ---------------------------------------------------------------- versions


def test_subsets_are_versions_by_their_own_names() -> None:
    assert SERVICE.backends == {name: f"{name}|app-1.namespace-1.svc.cluster.local" for name in ("v1", "v2")}
    assert SERVICE.aliases == {}


def test_services_for_some_of_the_pods_are_the_versions_of_an_http_route() -> None:
    root = plain_service("app-1", app="app-1")
    others = [
        root,
        plain_service("app-1-v1", app="app-1", version="v1"),
        plain_service("app-1-v2", app="app-1", version="v2"),
        plain_service("app-1-both", app="app-1", version="v2", track="canary"),
        plain_service("app-10-v1", app="app-10", version="v1"),
        plain_service("everything"),
        {"metadata": {"name": "external"}, "spec": {"type": "ExternalName"}},
    ]
    found = versions_by_service(root, others)
    assert sorted(found) == ["app-1-both", "app-1-v1", "app-1-v2"]
    service = Service("app-1.namespace-1.svc.cluster.local", (80,), {"app": "app-1"}, found, root, "HTTPRoute")
    assert service.backends["app-1-v1"] == "|app-1-v1.namespace-1.svc.cluster.local"
    assert service.aliases == {"v1": "app-1-v1", "v2": "app-1-v2"}
    assert workloads(service, [pod()])["app-1-v1"].pods == 1
    assert workloads(service, [pod()])["app-1-v2"].pods == 0
    assert versions_by_service(plain_service("everything"), others) == {}


def test_an_alias_that_two_services_have_or_one_is_called_is_none() -> None:
    root = plain_service("app-1", app="app-1")
    two = [plain_service(name, app="app-1", version="v1") for name in ("app-1-v1", "app-1-v1-headless")]
    named = [plain_service("v2", app="app-1", version="v1"), plain_service("v1", app="app-1", version="v2")]
    for others in (two, named):
        found = versions_by_service(root, others)
        assert Service("h", (80,), {"app": "app-1"}, found, root, "HTTPRoute").aliases == {}


def test_recorded_pods() -> None:
    label = PODS["app"]["metadata"]["labels"]["pod-template-hash"]
    found = workloads(SERVICE, [pod(), pod("client")])
    assert (found["v1"].version, found["v1"].pods, found["v1"].ready) == (Version("v1", label), 1, 1)
    assert found["v1"].meshed
    assert not found["v1"].mixed
    assert (found["v2"].version, found["v2"].pods, found["v2"].ready) == (Version("v2", ""), 0, 0)


def test_the_newest_template_counts_and_two_are_a_rollout() -> None:
    pods = [
        pod(pod_template_hash="new", created="2026-11-23T14:00:00Z"),
        pod(pod_template_hash="old", created="2026-11-22T14:00:00Z"),
    ]
    for order in (pods, pods[::-1]):
        (v1,) = [w for w in workloads(SERVICE, order).values() if w.pods]
        assert (v1.version.hash, v1.mixed, v1.pods) == ("new", True, 2)


def test_pods_that_leave_or_have_ended_do_not_count() -> None:
    pods = [pod(), pod(deleted=True), pod(phase="Succeeded"), pod(phase="Failed"), pod(phase="Pending", ready=False)]
    found = workloads(SERVICE, pods)["v1"]
    assert (found.pods, found.ready) == (2, 1)


def test_a_stateful_set_has_another_label() -> None:
    pods = [pod(pod_template_hash=None, controller_revision_hash="app-1-7f")]
    assert workloads(SERVICE, pods)["v1"].version == Version("v1", "app-1-7f")


def test_labels_of_subset_and_selector_both_have_to_fit() -> None:
    assert workloads(SERVICE, [pod(app="other")])["v1"].pods == 0
    track = Service(SERVICE.host, (80,), {"app": "app-1"}, {"blue": {"track": "stable"}, "all": {}})
    found = workloads(track, [pod(track="stable"), pod(track="canary")])
    assert (found["blue"].pods, found["all"].pods) == (1, 2)


def test_a_version_without_sidecars() -> None:
    bare = pod()
    bare["spec"] = {"containers": [{"name": "hello"}]}
    assert proxy_kind(bare) == ""
    assert not workloads(SERVICE, [bare])["v1"].meshed
    assert workloads(SERVICE, [bare, pod()])["v1"].meshed


# ---------------------------------------------------------------- proxies


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"args": ["proxy", "sidecar", "--domain"]}, "sidecar"),
        ({"args": ["proxy", "router"]}, "router"),
        ({"args": ["proxy", "waypoint"]}, "waypoint"),
        ({"args": ["proxy", "ztunnel"]}, "ztunnel"),
        ({"args": ["--of", "somebody"]}, "sidecar"),
        ({"args": None}, "sidecar"),
    ],
)
def test_kinds_of_proxies(arguments: dict[str, Any], kind: str) -> None:
    assert proxy_kind(PODS["client"]) == "sidecar"
    assert proxy_kind({"spec": {"containers": [{"name": "istio-proxy", **arguments}]}}) == kind


def test_a_native_sidecar_is_a_proxy() -> None:
    found = proxy_of(PODS["client"])
    assert found
    meta = PODS["client"]["metadata"]
    assert (found.uid, found.name, found.epoch) == (meta["uid"], f"namespace-1/{meta['name']}", "0")
    assert found.should_answer
    assert found.born == 1795444392.0


def container(found: dict[str, Any]) -> dict[str, Any]:
    status = found["status"]
    everyone = [*status["containerStatuses"], *status["initContainerStatuses"]]
    (proxy,) = [c for c in everyone if c["name"] == "istio-proxy"]
    result: dict[str, Any] = proxy
    return result


def test_a_restart_is_another_epoch_and_a_pod_that_leaves_may_be_silent() -> None:
    restarted = pod("client")
    container(restarted)["restartCount"] = 2
    found = proxy_of(restarted)
    assert found
    assert found.epoch == "2"
    leaving = proxy_of(pod("client", deleted=True))
    assert leaving
    assert not leaving.should_answer


def test_a_proxy_that_does_not_run_is_none() -> None:
    crashed = pod("client")
    container(crashed)["state"] = {"waiting": {"reason": "CrashLoopBackOff"}}
    assert proxy_of(crashed) is None
    new = pod("client")
    new["status"] = {"phase": "Pending"}
    assert proxy_of(new) is None


# ---------------------------------------------------------------- record


RECORD = Record("9f3c", "uid-1", Version("v1", "a"), Version("v2", "b"), (Step(100),), 0, PROGRESSING, 1.0, 2.0)


def virtual_service(uid: str, text: str | None) -> dict[str, Any]:
    annotations = {} if text is None else {"annotations": {ANNOTATION: text}}
    return {"metadata": {"name": "app", "namespace": "prod", "uid": uid, **annotations}}


def test_the_record_of_an_object_and_of_its_copy() -> None:
    assert record_of(virtual_service("uid-1", RECORD.dumps())) == RECORD
    assert record_of(virtual_service("uid-2", RECORD.dumps())) is None
    assert record_of(virtual_service("uid-1", None)) is None
    assert record_of(virtual_service("uid-1", "")) is None
    assert record_of({"metadata": {"name": "app", "uid": "uid-1", "annotations": None}}) is None


def test_a_record_that_cannot_be_read() -> None:
    with pytest.raises(RecordError, match=r"^annotation progressive\.istio/release cannot be read"):
        record_of(virtual_service("uid-1", "{"))


def test_a_recorded_release() -> None:
    obj = json.loads((FIXTURES / "split" / "virtual_service.json").read_text("utf-8"))
    found = record_of(obj)
    assert found
    assert found.phase in (PROGRESSING, PROMOTED)
    assert found.weights() == {"v1": 90, "v2": 10}
    assert found.uid == obj["metadata"]["uid"]
