# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The result of the bench of counters as text, from its raw numbers: what each counter saw of what went wrong. Pure.

A row is a kind of failure at one client: ``kind`` (in words), ``client`` (``wide`` or ``default``, by the stats matcher
of its proxy), ``sent`` and ``own`` (its requests, and the bad ones by its own count), ``codes`` (of the bad ones), and
``saw``: by counter ``[requests, bad]`` as it counted, or None where the proxy does not have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill

from ansible_collections.progressive.istio.tests.demo.stage import Json

WIDE, DEFAULT = "wide", "default"  # clients: with `inclusionPrefixes: [cluster.outbound]`, and as Istio has it
CLUSTER, SLOW, HOSTS, UNANSWERED, STATS, PROMETHEUS = "cluster", "slow", "hosts", "unanswered", "stats", "prometheus"
#: What is less than this share of the client's count, or so near to all of it, is none, or all: requests may be under
#: way at either end, and a busy machine makes some slow.
NONE, NEAR = 0.02, 0.05

HEAD = """
Two client pods in the mesh, {rate:g} requests a second each, give up after {timeout:g} s; each kind of failure for
{seconds:g} s, then {rest:g} s for what comes late. "wide": the proxy has proxyStatsMatcher with inclusionPrefixes
[cluster.outbound, cluster.inbound]; "default": Istio's own matcher. Retries are Istio's default where nothing is said.
The cells are bad requests seen / bad ones by the client's own count; "-": that proxy does not have this counter.
Read once a second by this collection's own code, as in a release:
cluster: Envoy's cluster counters, 5xx and bad gRPC statuses. slow: its histogram, by an edge of {edge:g} ms. /clusters:
attempts of each host, 5xx or none. unanswered: attempts that ended without an answer, by the same. 15090: the
statistics on that port. Prometheus: istio_requests_total, which the lab makes of the cluster counters.
The lab's proxies are stock Envoy, without Istio's own istio_requests_total. Published images have it with either
matcher, at port 15090 and so in a Prometheus, with gRPC statuses and clients that went away. That is not measured here.
"""


@dataclass(frozen=True, slots=True)
class Column:
    """A counter, and whose of the two clients' is quoted in the short table."""

    name: str
    title: str
    client: str
    said: str  # in the short table


COLUMNS = (
    Column(CLUSTER, "cluster", WIDE, "cluster counters"),
    Column(SLOW, "slow", WIDE, "slow, by their histogram"),
    Column(HOSTS, "/clusters", DEFAULT, "`/clusters`"),
    Column(UNANSWERED, "unanswered", DEFAULT, "unanswered, by `/clusters`"),
    Column(STATS, "15090", WIDE, "port 15090"),
    Column(PROMETHEUS, "Prometheus", WIDE, "Prometheus"),
)


def word(saw: Sequence[int] | None, own: int) -> str:
    """How much of a client's bad requests a counter saw.

    More than all are attempts: a retried one counts again. Where the client had none, they can be nothing else, unless
    they are few.
    """
    if saw is None:
        return "-"
    requests, bad = saw
    if not own:
        return "attempts" if bad > NONE * requests else "none"
    share = bad / own
    if share < NONE:
        return "none"
    if share > 1 + NEAR:
        return f"{share:.1f} times"
    return "all" if share >= 1 - NEAR else f"{100 * share:.0f} %"


def short(rows: Sequence[Json]) -> str:
    """Kind x counter in words, as Markdown: what the documentation quotes."""
    by = {(row["kind"], row["client"]): row for row in rows}
    lines = [
        f"| what went wrong | {' | '.join(column.said for column in COLUMNS)} |",
        "|---" * (1 + len(COLUMNS)) + "|",
    ]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        mine = [by[kind, column.client] for column in COLUMNS]
        cells = [word(row["saw"][column.name], row["own"]) for row, column in zip(mine, COLUMNS, strict=True)]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(saw: Sequence[int] | None, own: int) -> str:
    return "-" if saw is None else f"{saw[1]}/{own}"


def _codes(codes: Mapping[str, int]) -> str:
    return " ".join(f"{code} {number}" for code, number in sorted(codes.items())) or "none"


def table(rows: Sequence[Json]) -> str:
    """Every row with its figures; then what the bad requests were, by the clients."""
    width = max(len(row["kind"]) for row in rows) + 2
    titles = "".join(f"{column.title:>12}" for column in COLUMNS)
    lines = [f"{'kind':<{width}}{'client':<9}{'sent':>5}{titles}  bad ones by the client"]
    for row in rows:
        cells = "".join(f"{_cell(row['saw'][column.name], row['own']):>12}" for column in COLUMNS)
        lines.append(f"{row['kind']:<{width}}{row['client']:<9}{row['sent']:>5}{cells}  {_codes(row['codes'])}")
    return "\n".join(lines)


def report(found: Json) -> str:
    """The whole result as text. ``found``: head (lines), told (for HEAD), matchers (by client), rows."""
    parts = ["\n".join(found["head"]), HEAD.strip().format(**found["told"])]
    matchers = [f"The matcher of {client}, by its bootstrap: {text}" for client, text in found["matchers"].items()]
    parts.append("\n".join(fill(text, 118, break_long_words=False, break_on_hyphens=False) for text in matchers))
    parts += [table(found["rows"]), "In words, quoted by docs/judging.md:", short(found["rows"])]
    return "\n\n".join(parts) + "\n"
