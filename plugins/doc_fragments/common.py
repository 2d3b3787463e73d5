# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the documentation of all modules of this collection has in common. The access options are kubernetes.core's."""

from __future__ import annotations


class ModuleDocFragment:
    """Use it as C(progressive.istio.common), after C(kubernetes.core.k8s_auth_options)."""

    # Requirements, notes and the attributes that are the same for every module.
    DOCUMENTATION = r"""
requirements:
  - kubernetes >= 29.0.0
notes:
  - The module talks to the API server from the host that runs the task, in most cases the controller itself.
  - Access options that C(module_defaults) sets for the action group C(kubernetes.core.k8s) count here as well.
attributes:
  action_group:
    description: Use C(group/progressive.istio.istio) in C(module_defaults) to set the access options once for all.
    support: full
    membership:
      - progressive.istio.istio
  platform:
    description: The systems on which the module runs.
    support: full
    platforms: posix
"""

    # For modules that only read.
    READ_ONLY = r"""
attributes:
  check_mode:
    description: Can run in C(check_mode) and return what it returns otherwise.
    support: full
  diff_mode:
    description: Returns details on what has changed, or would change, in diff mode.
    support: none
    details:
      - The module changes nothing.
"""

    # For modules that write. A module whose check mode is more than a prediction says so in its own C(attributes).
    WRITES = r"""
attributes:
  check_mode:
    description: Can run in C(check_mode) and return what it would change, without a write.
    support: full
  diff_mode:
    description: Returns details on what has changed, or would change, in diff mode.
    support: full
"""

    # Which route a release moves, and how it is judged: for the modules that know whole releases.
    RELEASE = r"""
options:
  route_kind:
    description:
      - Kind of the route object. With V(VirtualService) the versions are the subsets of a DestinationRule.
      - With V(HTTPRoute), a route of the Gateway API with the Service as its parent, they are the Services that select
        some of its pods. A version goes by the name of its Service, or by the value of the one label that it adds to
        the selector.
    type: str
    choices: [VirtualService, HTTPRoute]
    default: VirtualService
  route_object:
    description:
      - Name of the route object. Found by the service's host in O(namespace) if there is only one.
      - Where none of these holds weights of the service, the one delegate (a VirtualService without hosts) that does.
    type: str
    default: ''
  route:
    description:
      - Name of the C(http) route, or of the rule of an HTTPRoute.
      - Found by the canary's subset, or, for a new version, the route without C(match).
    type: str
    default: ''
  other_route_objects:
    description:
      - More route objects that send requests to the same two versions, and are to move along. For example the
        VirtualService of an ingress gateway beside the one of the mesh. Each C(name), or C(namespace/name).
      - The first route object has the record; the others follow it, and are verified and watched like it. Of each, the
        one route that can carry the version is taken.
      - A release that is on record knows its own.
    type: list
    elements: str
    default: []
  analysis:
    description: How the release is judged.
    type: dict
    default: {}
    suboptions:
      source:
        description:
          - Who counts requests. V(proxies) are asked themselves, every O(analysis.interval).
          - V(prometheus) is whoever scrapes them, as O(analysis.prometheus) says. It is later by its scrape interval,
            and by it nothing says whether requests are split by weight, or how slow they are. What the proxies run, and
            which endpoints they have, they are asked themselves in any case.
        type: str
        choices: [proxies, prometheus]
        default: proxies
      prometheus: &prometheus
        description:
          - Where Istio's metrics are. A Prometheus, or a Mimir, Thanos or VictoriaMetrics by the same API. Exactly one
            of C(url) and C(service).
          - What does not answer, or not completely, or too late, is V(no_data). Nothing passes or fails by it.
        type: dict
        suboptions:
          url:
            description: What comes before C(/api/v1/query).
            type: str
          service:
            description:
              - C(namespace/name:port) of its Service, which is asked through the API server. Takes the right to get
                C(services/proxy) there. C(namespace/https:name:port) where it speaks TLS.
            type: str
          bearer_token:
            description: Token for C(url).
            type: str
          username:
            description: Name for C(url).
            type: str
          password:
            description: Password for C(url).
            type: str
          headers:
            description: More headers, for example C(X-Scope-OrgID) for a tenant.
            type: dict
            default: {}
          ca_cert:
            description: File of certificates to trust for C(url).
            type: path
          client_cert:
            description: File of the certificate to show to C(url).
            type: path
          client_key:
            description: File of its key, where it is not in the same file.
            type: path
          validate_certs:
            description: Whether the certificate of C(url) is checked.
            type: bool
            default: true
          timeout:
            description: Longest time to wait for an answer, in seconds.
            type: float
            default: 5.0
          max_age:
            description: How old the newest sample of a proxy may be, in seconds. At least twice the scrape interval.
            type: float
            default: 60.0
          labels:
            description: More labels that the series must have, for example that of a cluster.
            type: dict
            default: {}
      tolerance_ratio:
        description: The canary may have up to this many times the stable version's rate of bad requests.
        type: float
        default: 1.5
      tolerance_floor:
        description:
          - Below this rate of bad requests (0.005 is 0.5 %) a canary is good enough, whatever the stable version does.
        type: float
        default: 0.005
      alpha_fail:
        description: Probability, over the whole release, that a canary within the tolerance is taken back.
        type: float
        default: 0.01
      alpha_pass:
        description: Probability, for each step, that a canary beyond the tolerance passes it.
        type: float
        default: 0.05
      slo:
        description:
          - The rate of bad requests (0.001 is 0.1 %) that the stable version itself may have. Beyond it the verdict is
            V(environment); nothing passes, and nobody is blamed.
          - Without it what counts is how the stable version did before the release, by its clients' proxies.
        type: float
      latency:
        description:
          - Whether requests that are slower than an edge are judged, too, as errors are.
          - Nothing is said of them where the proxies keep no histograms; a release says so when it begins.
        type: bool
        default: true
      latency_edge:
        description:
          - The edge in milliseconds, rounded up to one of the histograms' own.
          - V(0) chooses the first, from 100 ms, beyond which at most 0.2 % of the stable version's requests have been,
            as soon as 500 of them are known; 1000 ms if all traffic leaves stable before.
        type: float
        default: 0.0
      latency_floor:
        description: Below this rate of slow requests a canary is good enough, whatever the stable version does.
        type: float
        default: 0.01
      warm_up:
        description: Seconds after the release began in which slow requests do not count, as first ones are slow.
        type: float
        default: 10.0
      observe:
        description:
          - Judge and say the verdicts, and do not follow them. Each step lasts its least time, then the next one comes.
          - It is recorded when a release begins, and holds until its end. A weight that proxies do not run, a canary
            that changes in the middle, and what somebody else does to the weights still end it.
        type: bool
        default: false
      min_coverage:
        description:
          - Nothing passes while less than this share (0..1) of the requests that the versions served in the step were
            seen in their clients' proxies. Clients without a sidecar are not seen, nor are those that may not be read.
          - V(0) asks for nothing. Nobody counts what is served by pods without a proxy.
        type: float
        default: 0.8
      capacity:
        description:
          - Whether the canary has to wait while it is short of capacity and the stable version is not, that is while
            its HorizontalPodAutoscaler wants more than its maximum, or a container takes 95 % of its CPU limit.
          - Needs C(list) on C(horizontalpodautoscalers) and on C(pods) of C(metrics.k8s.io); what cannot be read is
            said once, and not looked at.
        type: bool
        default: true
      counters:
        description:
          - Counters of your own as metrics, for M(progressive.istio.istio_canary). Of what (C(total)) there was how
            much, and how much of it was bad. Both versions' counts are judged by the same test as errors, with a part
            of O(analysis.alpha_fail). Each may fail the release, and all have to pass.
          - What is not known is never 0. Without samples, or with late ones, nothing passes and nobody is blamed.
          - C({version}) stands for the name of each version, and has to be in both selectors.
        type: list
        elements: dict
        default: []
        suboptions:
          name:
            description: At most 30 of a-z, 0-9 and C(-). It is the metric's name.
            type: str
            required: true
          total:
            description:
              - The selector of a counter in PromQL, as in C(orders_total{version="{version}"}), without functions and
                ranges. Its raw samples are asked for.
            type: str
            required: true
          bad:
            description:
              - The same for the bad ones, which are a part of C(total).
              - A series that is not there means none only where its metric is that of C(total), with more labels. A
                counter of another name has to be there for each version, if only as 0.
            type: str
            required: true
          tolerance_floor:
            description: Below this rate a canary is good enough. The default is O(analysis.tolerance_floor).
            type: float
          prometheus: *prometheus
      checks:
        description:
          - Checks of your own, for M(progressive.istio.istio_canary). Each is asked in every step, and nothing passes
            while the last answer of any of them is not ok. What could not be answered is no failure, and no pass.
          - In queries, URLs and headers C({version}), C({stable}), C({release}), C({step}), C({weight}) are replaced.
          - Each has a name and one of C(promql), C(http) and C(job). See the guide on judging.
        type: list
        elements: dict
        default: []
        suboptions:
          name:
            description: At most 30 of a-z, 0-9 and C(-).
            type: str
            required: true
          promql:
            description:
              - A query with one number as its answer, and its limits, the one, the other or both.
              - The default is to ask O(analysis.prometheus). C(max_age) and C(labels) have no meaning here.
            type: dict
            suboptions:
              query:
                description: PromQL, asked as of now. More than one series, none, or NaN are no answer.
                type: str
                required: true
              min:
                description: The least number that is ok.
                type: float
              max:
                description: The greatest number that is ok.
                type: float
              prometheus: *prometheus
          http:
            description: A GET from the host that runs the task. Redirects are answers, they are not followed.
            type: dict
            suboptions:
              url:
                description: What to ask. Results name it without user, password and query.
                type: str
                required: true
              status:
                description: The status that is ok.
                type: int
                default: 200
              timeout:
                description: Longest time to wait, in seconds, up to 30.
                type: float
                default: 5.0
              headers:
                description: Headers that anybody may see.
                type: dict
                default: {}
              secret_headers:
                description: Headers whose values no result shows.
                type: dict
                default: {}
              ca_cert:
                description: File of certificates to trust.
                type: path
              validate_certs:
                description: Whether the certificate is checked.
                type: bool
                default: true
          job:
            description:
              - A Job that must succeed, made once for each step in O(namespace), and deleted when the step is over. One
                that has failed stays an hour for its logs. Exactly one of template and cronjob.
              - Its containers have C(CANARY_VERSION), C(CANARY_STABLE), C(CANARY_RELEASE), C(CANARY_STEP) and
                C(CANARY_WEIGHT). Its pods have no sidecar, unless they have the label C(sidecar.istio.io/inject).
            type: dict
            suboptions:
              template:
                description: Manifest of the Job. Its name is set.
                type: dict
              cronjob:
                description: Name of a CronJob, which may be suspended, to make it of.
                type: str
          on_failure:
            description:
              - V(wait) for an answer that is ok, until O(analysis.max_wait).
              - V(abort) takes the release back after O(analysis.checks[].failures), or when its Job has failed.
            type: str
            choices: [wait, abort]
            default: wait
          failures:
            description: How many failures in a row it takes. No answer neither counts nor ends the row.
            type: int
            default: 3
          interval:
            description: Seconds from an answer to the next question. An answer is good for twice as long.
            type: float
            default: 15.0
      interval:
        description:
          - Longest time between two looks at the proxies, in seconds.
          - There are more looks while the canary gets more than ten requests in that time, one for every ten of them,
            but no more than ten a second, and none for which more than 50 proxies a second would have to be read.
          - A look that finds many bad answers of the canary is followed by the next at once.
        type: float
        default: 1.0
      max_wait:
        description: Longest time in one step without a verdict, in seconds.
        type: float
        default: 1200.0
      max_hold:
        description: A release that was held for longer than this is taken back by the next run, in seconds.
        type: float
        default: 3600.0
      on_inconclusive:
        description:
          - What becomes of a step without a verdict after O(analysis.max_wait).
          - V(promote) overrides the gate, and says so.
        type: str
        choices: [hold, abort, promote]
        default: hold
"""
    # Where a Prometheus is, alone.
    AUDIENCE = r"""
options:
  cohort:
    description:
      - Requests that the canary always answers while the release runs, whatever the weight. A request that meets all
        conditions of any entry is one of them. They are judged like others.
      - A route above the weighted one, a copy of it with more to match, is added in the patch of the first step and
        taken out in the patch that ends the release.
    type: list
    elements: dict
    default: []
    suboptions:
      headers:
        description: By name of the header, a text, or one of V(exact), V(prefix), V(regex) (RE2, the whole value).
        type: dict
        default: {}
      cookies:
        description: One cookie by its name, and its value.
        type: dict
        default: {}
      source_labels:
        description: Labels of the pods that send the requests. Not with O(route_kind=HTTPRoute).
        type: dict
        default: {}
  sticky:
    description:
      - Users who have got an answer of the canary stay with it until the release is over. The canary's answers set a
        cookie with the release's identifier; a route above the weighted one looks for it. After an abort it means
        nothing.
      - Without it every request is drawn anew.
    type: dict
    suboptions:
      cookie:
        description: The cookie's name, for example C(app-1-release).
        type: str
        required: true
      attributes:
        description: What follows the cookie's value. Add C(Secure) where all users come by HTTPS.
        type: str
        default: Path=/; Max-Age=86400; HttpOnly; SameSite=Lax
"""

    PROMETHEUS = r"""
options:
  prometheus:
    description:
      - Where Istio's metrics are. A Prometheus, or a Mimir, Thanos or VictoriaMetrics by the same API. Exactly one of
        C(url) and C(service).
      - What does not answer, or not completely, or too late, is V(no_data). Nothing passes or fails by it.
    type: dict
    suboptions:
      url:
        description: What comes before C(/api/v1/query).
        type: str
      service:
        description:
          - C(namespace/name:port) of its Service, which is asked through the API server. Takes the right to get
            C(services/proxy) there. C(namespace/https:name:port) where it speaks TLS.
        type: str
      bearer_token:
        description: Token for C(url).
        type: str
      username:
        description: Name for C(url).
        type: str
      password:
        description: Password for C(url).
        type: str
      headers:
        description: More headers, for example C(X-Scope-OrgID) for a tenant.
        type: dict
        default: {}
      ca_cert:
        description: File of certificates to trust for C(url).
        type: path
      client_cert:
        description: File of the certificate to show to C(url).
        type: path
      client_key:
        description: File of its key, where it is not in the same file.
        type: path
      validate_certs:
        description: Whether the certificate of C(url) is checked.
        type: bool
        default: true
      timeout:
        description: Longest time to wait for an answer, in seconds.
        type: float
        default: 5.0
      max_age:
        description: How old the newest sample of a proxy may be, in seconds. At least twice the scrape interval.
        type: float
        default: 60.0
      labels:
        description: More labels that the series must have, for example that of a cluster.
        type: dict
        default: {}
"""
