package server

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/regent-infra/regent/internal/secret"
)

// scramIterations is PostgreSQL's own count (SCRAM_SHA_256_DEFAULT_ITERATIONS).
const scramIterations = 4096

// scramVerifier computes what pg_authid stores for a password: SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey. The
// password must be printable ASCII, which SASLprep leaves as it is.
func scramVerifier(password secret.Value, salt []byte, iterations int) (string, error) {
	salted, err := pbkdf2.Key(sha256.New, password.Reveal(), salt, iterations, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("derive a key from the password: %w", err)
	}
	keyed := func(message string) []byte {
		mac := hmac.New(sha256.New, salted)
		mac.Write([]byte(message))
		return mac.Sum(nil)
	}
	stored := sha256.Sum256(keyed("Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, b64(salt), b64(stored[:]), b64(keyed("Server Key"))), nil
}

// scramMatches says whether a verifier is this password's.
func scramMatches(password secret.Value, verifier string) bool {
	rest, ok := strings.CutPrefix(verifier, "SCRAM-SHA-256$")
	head, _, okHead := strings.Cut(rest, "$")
	count, saltText, okSalt := strings.Cut(head, ":")
	iterations, err := strconv.Atoi(count)
	if !ok || !okHead || !okSalt || err != nil || iterations < 1 || iterations > 10_000_000 {
		return false
	}
	salt, err := base64.StdEncoding.DecodeString(saltText)
	if err != nil {
		return false
	}
	want, err := scramVerifier(password, salt, iterations)
	return err == nil && subtle.ConstantTimeCompare([]byte(want), []byte(verifier)) == 1
}

// rewindGrants are the functions that pg_rewind calls on its source (manual, pg_rewind, Notes).
var rewindGrants = []string{
	"pg_catalog.pg_ls_dir(text, boolean, boolean)", "pg_catalog.pg_stat_file(text, boolean)",
	"pg_catalog.pg_read_binary_file(text)", "pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean)",
}

// EnsureRoles creates the replication and rewind roles on a primary, or changes them to what the configuration says. It does
// nothing to what is right already.
func (i *Instance) EnsureRoles(ctx context.Context) error {
	err := i.withConn(ctx, func(conn *pgconn.PgConn) error { return i.ensureRoles(ctx, conn) })
	if err != nil {
		return fmt.Errorf("ensure the roles of %s: %w", i.config.DataDir, err)
	}
	return nil
}

func (i *Instance) ensureRoles(ctx context.Context, conn *pgconn.PgConn) error {
	if err := ensureRole(ctx, conn, i.config.Superuser, "SUPERUSER REPLICATION"); err != nil {
		return err
	}
	if err := ensureRole(ctx, conn, i.config.Replication, "REPLICATION"); err != nil {
		return err
	}
	if err := ensureRole(ctx, conn, i.config.Rewind, ""); err != nil {
		return err
	}
	for _, function := range rewindGrants {
		held, err := queryValue(ctx, conn, "SELECT has_function_privilege($1, $2, 'EXECUTE')", i.config.Rewind.User, function)
		if err != nil {
			return fmt.Errorf("check the grants of role %s: %w", i.config.Rewind.User, err)
		}
		if held == "t" {
			continue
		}
		if err := execute(ctx, conn, fmt.Sprintf("GRANT EXECUTE ON FUNCTION %s TO %s", function, i.config.Rewind.User)); err != nil {
			return fmt.Errorf("grant %s to role %s: %w", function, i.config.Rewind.User, err)
		}
	}
	return nil
}

// ensureRole needs no quoting: role names are checked to be plain, and a verifier has only base64 and $:.
func ensureRole(ctx context.Context, conn *pgconn.PgConn, role Credential, attributes string) error {
	rows, err := query(ctx, conn, "SELECT coalesce(rolpassword, '') FROM pg_authid WHERE rolname = $1", role.User)
	if err != nil {
		return fmt.Errorf("look for role %s: %w", role.User, err)
	}
	verb := "CREATE"
	if len(rows) > 0 {
		if role.Password.IsZero() || scramMatches(role.Password, rows[0][0]) {
			return nil
		}
		verb = "ALTER"
	}
	statement := fmt.Sprintf("%s ROLE %s LOGIN %s", verb, role.User, attributes)
	if !role.Password.IsZero() {
		salt := make([]byte, 16)
		if _, err := rand.Read(salt); err != nil {
			return fmt.Errorf("make a salt: %w", err)
		}
		verifier, err := scramVerifier(role.Password, salt, scramIterations)
		if err != nil {
			return err
		}
		statement += " PASSWORD '" + verifier + "'"
	}
	if err := execute(ctx, conn, statement); err != nil {
		// A server error may quote the statement, and a verifier is worth guessing at: report the code alone.
		var pgErr *pgconn.PgError
		if errors.As(err, &pgErr) {
			return fmt.Errorf("%s role %s: SQLSTATE %s: %s", strings.ToLower(verb), role.User, pgErr.Code, pgErr.Message)
		}
		return fmt.Errorf("%s role %s: %w", strings.ToLower(verb), role.User, err)
	}
	return nil
}
