// Copyright (c) 2026, the progressive.istio authors
// GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// faults is what is wrong with this replica. Rates are shares of requests, 0 to 1; a nil-like zero value is healthy.
type faults struct {
	ErrorRate   float64 `json:"error_rate"`   // answered with 500
	LatencyMS   float64 `json:"latency_ms"`   // on average; each is uniform in 0.5 to 1.5 of it
	LatencyRate float64 `json:"latency_rate"` // share of requests that are slow
	HangRate    float64 `json:"hang_rate"`    // never answered
	Ready       bool    `json:"ready"`        // what /ready says
	GRPCStatus  int     `json:"grpc_status"`  // status of a failing gRPC call
	GRPCRate    float64 `json:"grpc_rate"`    // share of gRPC calls that fail so
}

// set changes one field by its JSON name.
func (f *faults) set(name, value string) error {
	var rate *float64
	switch name {
	case "error_rate":
		rate = &f.ErrorRate
	case "latency_rate":
		rate = &f.LatencyRate
	case "hang_rate":
		rate = &f.HangRate
	case "grpc_rate":
		rate = &f.GRPCRate
	case "latency_ms":
		ms, err := strconv.ParseFloat(value, 64)
		if err != nil || !(ms >= 0 && ms <= 600_000) {
			return fmt.Errorf("latency_ms: expected 0 to 600000, got %q", value)
		}
		f.LatencyMS = ms
		return nil
	case "grpc_status":
		code, err := strconv.Atoi(value)
		if err != nil || code < 1 || code > 16 {
			return fmt.Errorf("grpc_status: expected 1 to 16, got %q", value)
		}
		f.GRPCStatus = code
		return nil
	case "ready":
		ready, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("ready: expected true or false, got %q", value)
		}
		f.Ready = ready
		return nil
	default:
		return fmt.Errorf("%s: no such fault; there are error_rate, latency_ms, latency_rate, hang_rate, ready, grpc_status, grpc_rate", name)
	}
	share, err := strconv.ParseFloat(value, 64)
	if err != nil || !(share >= 0 && share <= 1) {
		return fmt.Errorf("%s: expected 0 to 1, got %q", name, value)
	}
	*rate = share
	return nil
}

// merge changes the fields that the query names, all or none.
func (f faults) merge(query url.Values) (faults, error) {
	for name, values := range query {
		if err := f.set(name, values[len(values)-1]); err != nil {
			return f, err
		}
	}
	return f, nil
}

// fromEnvironment reads ERROR_RATE, LATENCY_MS and so on.
func fromEnvironment() (faults, error) {
	f := faults{LatencyRate: 1, Ready: true, GRPCStatus: 14}
	for _, name := range []string{"error_rate", "latency_ms", "latency_rate", "hang_rate", "ready", "grpc_status", "grpc_rate"} {
		if value := os.Getenv(strings.ToUpper(name)); value != "" {
			if err := f.set(name, value); err != nil {
				return f, err
			}
		}
	}
	return f, nil
}

func hit(rate float64) bool {
	return rate > 0 && rand.Float64() < rate
}

// delay hangs or waits as told; false: the caller has gone.
func (f *faults) delay(ctx context.Context) bool {
	if hit(f.HangRate) {
		<-ctx.Done()
		return false
	}
	if f.LatencyMS > 0 && hit(f.LatencyRate) {
		timer := time.NewTimer(time.Duration((0.5 + rand.Float64()) * f.LatencyMS * float64(time.Millisecond)))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}
