package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/regent-infra/regent/internal/config"
	"github.com/regent-infra/regent/internal/httpapi"
	"github.com/regent-infra/regent/internal/telemetry"
)

// apiTimeout bounds one request to the server.
const apiTimeout = 20 * time.Second

// api asks a Regent server.
type api struct {
	base string
	http *http.Client
}

// addServer adds --server to a command that asks one.
func addServer(cmd *cobra.Command) { config.BindFlag(cmd.Flags(), "server", "server") }

func newAPI(c *config.Loaded) *api {
	return &api{base: strings.TrimRight(c.Server, "/"), http: &http.Client{}}
}

// unreachable says that a server does not answer.
func (a *api) unreachable(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		err = op.Err
	}
	return withCode(exitUnreachable, fmt.Errorf("ask the server at %s: no answer: %w (is it up? `regent up` starts one; --server, REGENT_SERVER or a context names another)", telemetry.CleanText(a.base), err))
}

func (a *api) open(ctx context.Context, path string, query url.Values) (*http.Response, error) {
	address := a.base + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, usagef("ask the server: the address is not valid, expected http://host:port")
	}
	response, err := a.http.Do(request)
	if err != nil {
		if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil, context.Cause(ctx)
		}
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err // the URL may carry a password
		}
		return nil, a.unreachable(err)
	}
	return response, nil
}

// get asks for path and decodes the answer into out.
func (a *api) get(ctx context.Context, path string, query url.Values, out any) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	response, err := a.open(ctx, path, query)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }() // nothing is left to be lost
	raw, err := io.ReadAll(io.LimitReader(response.Body, 256<<20))
	if err != nil {
		return a.unreachable(err)
	}
	if response.StatusCode != http.StatusOK {
		return a.failure(response.StatusCode, raw, out)
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("ask the server at %s for %s: the answer is not what this version expects: %w (do both have the same version?)", a.base, path, err)
	}
	return nil
}

// failure turns an error answer into an error. The detail of a 503 is decoded into out, where it fits.
func (a *api) failure(status int, raw []byte, out any) error {
	var answer struct {
		Error struct {
			Code    string          `json:"code"`
			Message string          `json:"message"`
			Detail  json.RawMessage `json:"detail"`
		} `json:"error"`
	}
	if json.Unmarshal(raw, &answer) != nil || answer.Error.Message == "" {
		return fmt.Errorf("ask the server at %s: it answered %d, which is no answer of Regent (does the address belong to another program?)", a.base, status)
	}
	if status == http.StatusServiceUnavailable && len(answer.Error.Detail) > 0 {
		_ = json.Unmarshal(answer.Error.Detail, out) // the message says enough without it
	}
	err := &httpapi.Error{Status: status, Code: answer.Error.Code, Message: answer.Error.Message}
	if status == http.StatusBadRequest {
		return withCode(exitUsage, err)
	}
	return err
}

// watch reads server-sent events until ctx ends, the server ends the stream, or fn returns an error.
func (a *api) watch(ctx context.Context, query url.Values, fn func(event string, data []byte) error) error {
	response, err := a.open(ctx, "/v1/watch", query)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }() // nothing is left to be lost
	if response.StatusCode != http.StatusOK {
		raw, _ := io.ReadAll(io.LimitReader(response.Body, 1<<20))
		return a.failure(response.StatusCode, raw, nil)
	}
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(make([]byte, 0, 64<<10), 8<<20)
	name := ""
	for lines.Scan() {
		line := lines.Text()
		if event, ok := strings.CutPrefix(line, "event: "); ok {
			name = event
			continue
		}
		data, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			continue
		}
		if name == "end" {
			return fmt.Errorf("watch: the server ended the stream: %s", data)
		}
		if err := fn(name, []byte(data)); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := lines.Err(); err != nil {
		return a.unreachable(err)
	}
	return a.unreachable(io.ErrUnexpectedEOF)
}

// repeat prints again and again until ctx ends: --watch.
func (a *app) repeat(ctx context.Context, every time.Duration, show func() error) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if a.style().color {
			a.printf("\x1b[H\x1b[2J")
		}
		if err := show(); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// watchFlag is --watch with its interval.
type watchFlag struct {
	on    bool
	every time.Duration
}

func (w *watchFlag) add(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&w.on, "watch", "w", false, "show again and again until interrupted")
	cmd.Flags().DurationVar(&w.every, "interval", 2*time.Second, "time between two looks with --watch")
}

// run shows once, or again and again.
func (w *watchFlag) run(ctx context.Context, a *app, show func() error) error {
	if !w.on {
		return show()
	}
	if w.every < 100*time.Millisecond {
		return usagef("--interval %s: expected at least 100ms", w.every)
	}
	return a.repeat(ctx, w.every, show)
}
