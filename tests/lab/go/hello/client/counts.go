// Copyright (c) 2026, the progressive.istio authors
// GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"sort"
	"strings"
	"sync"
	"time"
)

// counts is what the client saw. Always sent = ok + lost + in_flight; lost is every request that had no good answer
// (HTTP: not 2xx, or a broken or late one; gRPC: any status but OK).
type counts struct {
	URL       string                      `json:"url"`
	Began     time.Time                   `json:"began"`
	Seconds   float64                     `json:"seconds"`
	Done      bool                        `json:"done"`
	Sent      int64                       `json:"sent"`
	OK        int64                       `json:"ok"`
	Lost      int64                       `json:"lost"`
	InFlight  int64                       `json:"in_flight"`
	Skipped   int64                       `json:"skipped"`     // due but not sent: every connection was busy
	ByVersion map[string]int64            `json:"by_version"`  // good answers by the first line of the body
	ByCode    map[string]int64            `json:"by_code"`     // all answers by status, or the kind of failure
	LostBy    map[string]map[string]int64 `json:"lost_by"`     // lost ones: version that answered (none: nobody) -> code -> n
	FirstBad  *time.Time                  `json:"first_bad"`   // when the answer came
	LastBad   *time.Time                  `json:"last_bad"`    //
	LatencyMS map[string]float64          `json:"latency_ms"`  // of good answers: mean, p50, p90, p99, max (buckets of 5 %)
	LastSeen  map[string]time.Time        `json:"last_answer"` // by version, good or bad
}

type tally struct {
	mu      sync.Mutex
	c       counts
	buckets map[int]int64
	sum     float64
	max     float64
}

func newTally(url string) *tally {
	return &tally{buckets: map[int]int64{}, c: counts{
		URL: url, Began: time.Now().UTC(), ByVersion: map[string]int64{}, ByCode: map[string]int64{},
		LostBy: map[string]map[string]int64{}, LastSeen: map[string]time.Time{},
	}}
}

func (t *tally) sent() {
	t.mu.Lock()
	t.c.Sent++
	t.mu.Unlock()
}

func (t *tally) skipped() {
	t.mu.Lock()
	t.c.Skipped++
	t.mu.Unlock()
}

// answer counts one end of a request. Version: of a good answer its first line; of a bad one who said so, or "none".
func (t *tally) answer(good bool, version, code string, took time.Duration) {
	now := time.Now().UTC()
	if version == "" {
		version = "none"
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.c.ByCode[code]++
	if version != "none" {
		t.c.LastSeen[version] = now
	}
	if !good {
		t.c.Lost++
		if t.c.LostBy[version] == nil {
			t.c.LostBy[version] = map[string]int64{}
		}
		t.c.LostBy[version][code]++
		if t.c.FirstBad == nil {
			t.c.FirstBad = &now
		}
		t.c.LastBad = &now
		return
	}
	t.c.OK++
	t.c.ByVersion[version]++
	ms := float64(took) / float64(time.Millisecond)
	t.sum += ms
	t.max = max(t.max, ms)
	t.buckets[bucket(ms)]++
}

// snapshot is a consistent copy.
func (t *tally) snapshot(done bool) counts {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.c.Done {
		t.c.Seconds = time.Since(t.c.Began).Seconds()
	}
	t.c.Done = t.c.Done || done
	t.c.InFlight = t.c.Sent - t.c.OK - t.c.Lost
	c := t.c
	c.ByVersion, c.ByCode, c.LastSeen = copied(t.c.ByVersion), copied(t.c.ByCode), copied(t.c.LastSeen)
	c.LostBy = map[string]map[string]int64{}
	for version, codes := range t.c.LostBy {
		c.LostBy[version] = copied(codes)
	}
	c.LatencyMS = t.latency()
	return c
}

func copied[V any](from map[string]V) map[string]V {
	to := make(map[string]V, len(from))
	for k, v := range from {
		to[k] = v
	}
	return to
}

func (t *tally) latency() map[string]float64 {
	if t.c.OK == 0 {
		return nil
	}
	keys := make([]int, 0, len(t.buckets))
	for k := range t.buckets {
		keys = append(keys, k)
	}
	sort.Ints(keys)
	out := map[string]float64{"mean": t.sum / float64(t.c.OK), "max": t.max}
	for name, share := range map[string]float64{"p50": 0.5, "p90": 0.9, "p99": 0.99} {
		var below int64
		for _, k := range keys {
			if below += t.buckets[k]; float64(below) >= share*float64(t.c.OK) {
				out[name] = min(edge(k), t.max)
				break
			}
		}
	}
	return out
}

func firstLine(body string) string {
	line, _, _ := strings.Cut(body, "\n")
	line = strings.TrimSpace(line)
	if len(line) > 80 {
		line = line[:80]
	}
	return line
}
