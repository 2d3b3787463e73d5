// Copyright (c) 2026, the progressive.istio authors
// GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// hello serves the files of a folder over HTTP/1.1, cleartext HTTP/2 and one gRPC method, and can be told to be bad.
//
// Ports 8080 and 9000 are the app's (two, as Istio gives one target port one protocol: 9000 is for gRPC). Port 8081 is for control: GET /faults; PUT or POST /faults?error_rate=0.05&ready=false merges;
// POST /crash ends the process with 1; GET /ready answers 200 or 503. Without GRACEFUL=true it dies at once on SIGTERM,
// with whatever requests it has: that is what a release must be able to cope with.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log"
	"mime"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lab.invalid/hello/wire"
)

// page is a file in memory. ConfigMaps change on disk, so it is read again after a second.
type page struct {
	body []byte
	kind []string
	read time.Time
}

type server struct {
	root   string
	now    atomic.Pointer[faults]
	mu     sync.RWMutex
	pages  map[string]page
	status sync.Mutex
}

// file returns a file of the root, index.html for a folder.
func (s *server) file(name string) (page, bool) {
	s.mu.RLock()
	p, ok := s.pages[name]
	s.mu.RUnlock()
	if ok && time.Since(p.read) < time.Second {
		return p, true
	}
	full := filepath.Join(s.root, filepath.FromSlash(path.Clean("/"+name)))
	if info, err := os.Stat(full); err == nil && info.IsDir() {
		full = filepath.Join(full, "index.html")
	}
	body, err := os.ReadFile(full)
	if err != nil {
		return page{}, false
	}
	kind := mime.TypeByExtension(filepath.Ext(full))
	if kind == "" {
		kind = "text/plain; charset=utf-8"
	}
	p = page{body: body, kind: []string{kind}, read: time.Now()}
	s.mu.Lock()
	if len(s.pages) > 1000 {
		clear(s.pages)
	}
	s.pages[name] = p
	s.mu.Unlock()
	return p, true
}

// version is the first line of the root's index.html: how a client tells the versions apart.
func (s *server) version() string {
	p, ok := s.file("/")
	if !ok {
		return "unknown"
	}
	line, _, _ := bytes.Cut(p.body, []byte("\n"))
	return strings.TrimSpace(string(line))
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f := s.now.Load()
	if !f.delay(r.Context()) {
		return
	}
	if hit(f.ErrorRate) {
		// Which version was broken is said in a header; the body must not look like an answer.
		w.Header().Set("X-Version", s.version())
		http.Error(w, "broken", http.StatusInternalServerError)
		return
	}
	p, ok := s.file(r.URL.Path)
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header()["Content-Type"] = p.kind
	_, _ = w.Write(p.body)
}

// Say is the gRPC method.
func (s *server) Say(ctx context.Context) (string, error) {
	f := s.now.Load()
	if !f.delay(ctx) {
		return "", status.FromContextError(ctx.Err()).Err()
	}
	if hit(f.GRPCRate) {
		return "", status.Error(codes.Code(f.GRPCStatus), "broken: "+s.version())
	}
	return s.version(), nil
}

func (s *server) control(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/ready":
		if !s.now.Load().Ready {
			http.Error(w, "told not to be ready", http.StatusServiceUnavailable)
		}
	case r.URL.Path == "/crash" && r.Method == http.MethodPost:
		log.Print("told to crash")
		os.Exit(1)
	case r.URL.Path == "/faults":
		s.status.Lock()
		defer s.status.Unlock()
		if r.Method == http.MethodPut || r.Method == http.MethodPost {
			next, err := s.now.Load().merge(r.URL.Query())
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			s.now.Store(&next)
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.now.Load())
	default:
		http.NotFound(w, r)
	}
}

func main() {
	root := os.Getenv("ROOT")
	if root == "" {
		root = "/app"
	}
	start, err := fromEnvironment()
	if err != nil {
		log.Fatal(err)
	}
	s := &server{root: root, pages: map[string]page{}}
	s.now.Store(&start)
	calls := grpc.NewServer()
	calls.RegisterService(&wire.Service, s)

	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	app := &http.Server{Protocols: &protocols, ReadHeaderTimeout: time.Minute}
	app.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			calls.ServeHTTP(w, r)
			return
		}
		s.ServeHTTP(w, r)
	})
	go func() { log.Fatal(http.ListenAndServe(":8081", http.HandlerFunc(s.control))) }()
	for _, address := range []string{":8080", ":9000"} {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			if err := app.Serve(listener); err != http.ErrServerClosed {
				log.Fatal(err)
			}
		}()
	}
	if os.Getenv("GRACEFUL") == "true" {
		stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer cancel()
		<-stop.Done()
		s.status.Lock()
		last := *s.now.Load()
		last.Ready = false
		s.now.Store(&last)
		s.status.Unlock()
		_ = app.Shutdown(context.Background())
		return
	}
	select {}
}
