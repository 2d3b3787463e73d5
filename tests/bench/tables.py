# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The result of the bench of proxies as text, from its raw numbers. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from ansible_collections.progressive.istio.tests.bench.clocked import Arrival, Cost, percentile
from ansible_collections.progressive.istio.tests.demo.stage import Json

PROXIES = ("config_dump", "clusters", "clusters, inbound", "stats", "syncz")  # asked through a port-forward
EARLY = -0.001  # seconds; Envoy's times are exact to the millisecond

ARRIVALS = """
From sending the patch to the API server until this collection knows that all proxies run it, in seconds.
istio: until the last proxy runs it (real ones: last_updated in its config_dump, same clock); with fake proxies drawn
from what was measured on the real ones, so how Istio itself does with 300 is not measured here.
ours: from then until known. early: how often we knew more than a millisecond before the last proxy ran it; that can
only be by istiod's word, for proxies that are not read (of more than 32).
istio_weight: as a task, with connections made anew each time. istio_canary: the steps of a release, connected.
"""
COSTS = """
What a proxy costs: CPU of this process in ms, bytes of bodies, requests to the API server (a port-forward is one), and
to the proxy itself. list: all pods of the mesh, as every 2 s. first: connecting, and reading the weights. weights,
counters: when connected. Fake proxies over TLS with Istio's default stats settings: counters are asked twice, as they
are not among the stats. beside: other services whose routes stand in the same route configuration.
"""
STEPS = """
A release that stands at its first step, for {seconds:.0f} s: CPU in % of a core; looks, requests to the API server and
to proxies, and MB, all a second. callers: proxies that send requests to the service.
"""
FLEET = """
Many services released at once by one ansible-playbook (playbooks/promote.yml, as many forks), on a fake mesh of {size}
proxies. Three steps of {least} s. CPU s: of each release. CPU %: of a core, all. MB: the most that all processes took
(proportional shares). begins: until a service's first write, median and max. step: seconds beyond its least time, p50
and p99. Requests a second to the API server and to proxies. fake: CPU of the fake cluster itself, in % of a core of
the same machine.
"""


def plain(cost: Cost) -> Json:
    """For the raw file."""
    return asdict(cost)


def row_of(what: str, size: int, way: str, arrivals: Sequence[Arrival]) -> Json:
    """The raw numbers of one row, in seconds."""
    parts = {name: [round(getattr(a, name), 4) for a in arrivals] for name in ("istio", "ours", "total")}
    delays = [[round(delay, 3) for delay in arrival.delays] for arrival in arrivals]
    return {"what": what, "size": size, "way": way, **parts, "delays": delays}


def told(row: Mapping[str, list[float]] | Json) -> str:
    """n, then p50 and p99 of Istio's part, ours and the total, in seconds; how often we knew too early."""
    parts = [row[name] for name in ("istio", "ours", "total")]
    cells = "".join(f"{percentile(part, 0.5):>9.3f}{percentile(part, 0.99):>8.3f}" for part in parts)
    early = sum(value < EARLY for value in row["ours"])
    return f"  {row['what']:<5}{row['size']:>5}  {row['way']:<13}{len(parts[0]):>5}{cells}{early:>7}"


def requests(asked: Mapping[str, int]) -> tuple[int, int]:
    """(to the API server, to proxies and istiods)."""
    own = sum(asked.get(kind, 0) for kind in PROXIES)
    return sum(asked.values()) - own, own


def cost_rows(result: Json) -> list[str]:
    """Per proxy: CPU in ms, bytes of bodies, requests to the API server and to the proxy."""
    rows = []
    for what, cost in result["costs"].items():
        count, (api, own) = cost["proxies"], requests(cost["asked"])
        cells = f"{1000 * cost['cpu'] / count:>10.2f}{sum(cost['sent'].values()) / count:>10.0f}"
        cells += f"{api / count:>10.2f}{own / count:>10.2f}"
        rows.append(f"  {result['size']:>5}{result['neighbours']:>8}  {what:<10}{cells}")
    return rows


def step_rows(result: Json) -> list[str]:
    """CPU in % of a core, looks, requests and bytes a second; then whom it reads, and what was asked by kind."""
    cost = result["cost"]
    seconds, (api, own) = cost["seconds"], requests(cost["asked"])
    cells = f"{100 * cost['cpu'] / seconds:>8.1f}{result['looks'] / seconds:>8.2f}{api / seconds:>8.2f}"
    cells += f"{own / seconds:>9.1f}{sum(cost['sent'].values()) / seconds / 1e6:>8.2f}"
    kinds = ", ".join(f"{kind} {n / seconds:.2f}" for kind, n in sorted(cost["asked"].items()))
    return [f"  {result['size']:>5}{result['callers']:>9}{cells}", f"        {result['whom']}", f"        {kinds}"]


def fleet_rows(result: Json) -> list[str]:
    """Seconds, CPU, memory, requests; what steps took beyond their least time."""
    runs, seconds, cpu, begins = result["runs"], result["seconds"], result["cpu"], result["begins"]
    api, own = requests(result["asked"])
    cells = f"{seconds:>9.1f}{cpu / runs:>8.1f}{100 * cpu / seconds:>7.0f}{result['memory']:>8.0f}"
    cells += f"{percentile(begins, 0.5):>8.1f}{max(begins):>8.1f}{percentile(result['steps'], 0.5):>8.2f}"
    cells += f"{percentile(result['steps'], 0.99):>8.2f}{api / seconds:>8.1f}{own / seconds:>9.1f}"
    more = [f"        {number} not: {why}" for why, number in result["others"].items()]
    return [f"  {runs:>8}{result['promoted']:>9}{cells}{100 * result['server_cpu'] / seconds:>7.0f}", *more]


def report(found: Json) -> str:
    """The whole result."""
    heads = [f"{'istio':>17}{'ours':>17}{'total':>17}", "".join(f"{'p50':>9}{'p99':>8}" for _part in range(3))]
    columns = f"{'CPU %':>8}{'looks':>8}{'to API':>8}{'proxies':>9}{'MB':>8}"
    names = ("CPU s", "CPU %", "MB", "begins", "max", "step", "p99", "API")
    many = f"{'promoted':>9}{'seconds':>9}" + "".join(f"{name:>{7 if '%' in name else 8}}" for name in names)
    lines = [
        *found["head"],
        ARRIVALS.rstrip(),
        f"  {'':<30}{heads[0]}",
        f"  {'':<5}{'size':>5}  {'':<13}{'n':>5}{heads[1]}{'early':>7}",
        *map(told, found["rows"]),
        COSTS.rstrip(),
        f"  {'size':>5}{'beside':>8}  {'':<10}{'CPU ms':>10}{'bytes':>10}{'to API':>10}{'to proxy':>10}",
        *(row for result in found["costs"] for row in cost_rows(result)),
        STEPS.format(seconds=found["step_seconds"]).rstrip(),
        f"  {'size':>5}{'callers':>9}{columns}",
        *(row for result in found["steps"] for row in step_rows(result)),
        FLEET.format(size=found["fleet_size"], least=found["least"]).rstrip(),
        f"  {'services':>8}{many}{'proxies':>9}{'fake':>7}",
        *(row for result in found["fleet"] for row in fleet_rows(result)),
    ]
    return "\n".join(lines) + "\n"
