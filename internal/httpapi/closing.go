package httpapi

import (
	"context"
	"net/http"
)

// watchContext ends with the request or when the server stops, whichever is first.
func (s *Server) watchContext(r *http.Request) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(r.Context())
	release := context.AfterFunc(s.closing, cancel)
	return ctx, func() {
		release()
		cancel()
	}
}
