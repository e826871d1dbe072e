package registry

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"

	"github.com/regent-infra/regent/internal/secret"
)

// Credentials are what clients must bring by HTTP basic authentication. The zero value asks for nothing.
type Credentials struct {
	// User is the one user there is; empty: everybody may come in.
	User string
	// Password is that user's. Required where User is set.
	Password secret.Value
}

// Validate refuses a user without a password, and a password that would not be asked for.
func (c Credentials) Validate() error {
	switch {
	case c.User != "" && c.Password.Reveal() == "":
		return fmt.Errorf("user %s of the schema registry has no password, expected one that clients must bring", c.User)
	case c.User == "" && c.Password.Reveal() != "":
		return errors.New("the schema registry has a password but no user, expected both or none: it would ask for neither")
	default:
		return nil
	}
}

// Protect lets requests through that bring the password, and those to "/", which tell no more than that the process is alive. Digests are
// compared, so that the time taken says nothing.
func (c Credentials) Protect(next http.Handler) http.Handler {
	if c.User == "" {
		return next
	}
	want := sha256.Sum256([]byte(c.User + "\x00" + c.Password.Reveal()))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, given, _ := r.BasicAuth()
		got := sha256.Sum256([]byte(name + "\x00" + given))
		if subtle.ConstantTimeCompare(got[:], want[:]) != 1 && r.URL.Path != "/" {
			w.Header().Set("WWW-Authenticate", `Basic realm="regent schema registry"`)
			w.Header().Set("Content-Type", contentType)
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"error_code":401,"message":"User or password is wrong or missing"}` + "\n")) // the client may be gone
			return
		}
		next.ServeHTTP(w, r)
	})
}
