// Copyright (c) 2026, the progressive.istio authors
// GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// client sends a fixed rate of requests over connections that it keeps, and counts every answer exactly.
//
// Settings (environment or flags): URL (http://host/path or grpc://host:port), RATE (requests a second), SECONDS (0: until
// SIGTERM), CONNECTIONS, TIMEOUT (s, for one request), LINGER (true: stay and serve the counts after SECONDS).
// GET :8082/counts is the tally so far; at the end it is printed on one line. Exit code 0 whatever was counted.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"lab.invalid/hello/wire"
)

// bucket numbers a latency in milliseconds: edges grow by 5 %.
func bucket(ms float64) int { return int(math.Ceil(math.Log(max(ms, 0.01)) / math.Log(1.05))) }
func edge(k int) float64    { return math.Pow(1.05, float64(k)) }
func env(name, def string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return def
}

func number(name string, def float64) float64 {
	v, err := strconv.ParseFloat(env(name, strconv.FormatFloat(def, 'g', -1, 64)), 64)
	if err != nil {
		log.Fatalf("%s: expected a number, got %q", name, os.Getenv(name))
	}
	return v
}

// caller makes one request and says how it ended.
type caller func(ctx context.Context) (good bool, version, code string)

// overHTTP is a caller with one connection of its own.
func overHTTP(target string) caller {
	client := &http.Client{
		Transport:     &http.Transport{MaxConnsPerHost: 1, MaxIdleConnsPerHost: 1, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return func(ctx context.Context) (bool, string, string) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
		if err != nil {
			return false, "", "bad_url"
		}
		// Go's transport sends a failed GET again by itself, and so hides a loss, unless there is a body it cannot replay.
		request.Body = io.NopCloser(strings.NewReader(""))
		answer, err := client.Do(request)
		if err != nil {
			return false, "", failure(err)
		}
		defer func() { _ = answer.Body.Close() }()
		body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
		code := strconv.Itoa(answer.StatusCode)
		if err != nil {
			return false, answer.Header.Get("X-Version"), "cut_" + failure(err)
		}
		if answer.StatusCode < 200 || answer.StatusCode > 299 {
			return false, answer.Header.Get("X-Version"), code
		}
		return true, firstLine(string(body)), code
	}
}

func overGRPC(target string) (caller, error) {
	conn, err := grpc.NewClient("passthrough:///"+target, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (bool, string, string) {
		version, err := wire.Say(ctx, conn)
		if err != nil {
			s := status.Convert(err)
			_, by, _ := strings.Cut(s.Message(), "broken: ")
			return false, by, "grpc_" + strconv.Itoa(int(s.Code()))
		}
		return true, firstLine(version), "grpc_0"
	}, nil
}

// failure names why there was no answer.
func failure(err error) string {
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed"
	}
	return "error"
}

func main() {
	target := flag.String("url", env("URL", ""), "http://host/path or grpc://host:port")
	rate := flag.Float64("rate", number("RATE", 10), "requests a second")
	seconds := flag.Float64("seconds", number("SECONDS", 0), "how long; 0: until SIGTERM")
	connections := flag.Int("connections", int(number("CONNECTIONS", 8)), "connections, each with one request at a time")
	timeout := flag.Float64("timeout", number("TIMEOUT", 10), "seconds for one request")
	linger := flag.Bool("linger", env("LINGER", "false") == "true", "stay after the end and serve the counts")
	listen := flag.String("listen", env("LISTEN", ":8082"), "address of /counts")
	flag.Parse()
	at, err := url.Parse(*target)
	if err != nil || at.Host == "" || (at.Scheme != "http" && at.Scheme != "grpc") {
		log.Fatalf("URL: expected http://host/path or grpc://host:port, got %q", *target)
	}
	if *rate <= 0 || *connections < 1 || *timeout <= 0 {
		log.Fatalf("RATE, CONNECTIONS, TIMEOUT: expected more than 0, got %g, %d, %g", *rate, *connections, *timeout)
	}

	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	sending := stop
	if *seconds > 0 {
		timed, done := context.WithTimeout(stop, time.Duration(*seconds*float64(time.Second)))
		defer done()
		sending = timed
	}
	t := newTally(*target)
	http.HandleFunc("/counts", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(t.snapshot(false))
	})
	go func() { log.Fatal(http.ListenAndServe(*listen, nil)) }()

	due := make(chan struct{})
	var workers sync.WaitGroup
	for range *connections {
		call := overHTTP(*target)
		if at.Scheme == "grpc" {
			if call, err = overGRPC(at.Host); err != nil {
				log.Fatal(err)
			}
		}
		workers.Go(func() {
			for range due {
				t.sent()
				ctx, done := context.WithTimeout(context.Background(), time.Duration(*timeout*float64(time.Second)))
				began := time.Now()
				good, version, code := call(ctx)
				t.answer(good, version, code, time.Since(began))
				done()
			}
		})
	}
	pace(sending, *rate, due, t)
	close(due)
	workers.Wait()
	line, _ := json.Marshal(t.snapshot(true))
	fmt.Println(string(line))
	if *linger {
		<-stop.Done()
	}
}

// pace offers requests at a fixed rate. One that finds every connection busy for longer than a tenth of a second is
// skipped and counted as such, so that a stall is not followed by a burst.
func pace(ctx context.Context, rate float64, due chan<- struct{}, t *tally) {
	began := time.Now()
	for n := 0; ; n++ {
		at := began.Add(time.Duration(float64(n) / rate * float64(time.Second)))
		if wait := time.Until(at); wait > 0 {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
		}
		late := time.NewTimer(max(100*time.Millisecond-time.Since(at), time.Millisecond))
		select {
		case due <- struct{}{}:
		case <-late.C:
			t.skipped()
		case <-ctx.Done():
			late.Stop()
			return
		}
		late.Stop()
	}
}
