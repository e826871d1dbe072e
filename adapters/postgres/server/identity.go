package server

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// ErrRoot is wrapped when PostgreSQL would have to run as root, which it refuses.
var ErrRoot = errors.New("PostgreSQL cannot run as root")

// identity is the user that PostgreSQL runs as.
type identity struct {
	name   string
	home   string
	uid    int
	gid    int
	groups []uint32
	// drop says that this process is root and must change user when it starts a program.
	drop bool
}

// resolveIdentity decides who PostgreSQL runs as. lookup is user.Lookup.
func resolveIdentity(euid int, configured string, lookup func(string) (*user.User, error)) (identity, error) {
	if euid != 0 {
		self, err := user.LookupId(strconv.Itoa(euid))
		name := strconv.Itoa(euid)
		home := ""
		if err == nil {
			name, home = self.Username, self.HomeDir
		}
		if configured != "" && configured != name {
			return identity{}, fmt.Errorf("run PostgreSQL as %q: this process is %q and only root can change user: start it as root or as %q",
				configured, name, configured)
		}
		return identity{name: name, home: home, uid: euid, gid: os.Getegid()}, nil
	}
	name := configured
	if name == "" {
		name = "postgres"
	}
	u, err := lookup(name)
	if err != nil {
		return identity{}, fmt.Errorf("%w: this process is root and the user %q does not exist: create it or configure another one (user: …): %w",
			ErrRoot, name, err)
	}
	uid, uidErr := strconv.Atoi(u.Uid)
	gid, gidErr := strconv.Atoi(u.Gid)
	if err := errors.Join(uidErr, gidErr); err != nil {
		return identity{}, fmt.Errorf("run PostgreSQL as %q: expected numeric ids: %w", name, err)
	}
	if uid == 0 {
		return identity{}, fmt.Errorf("%w: the configured user %q is root: configure an unprivileged one (user: …)", ErrRoot, name)
	}
	id := identity{name: name, home: u.HomeDir, uid: uid, gid: gid, drop: true}
	groups, err := u.GroupIds()
	if err != nil {
		return identity{}, fmt.Errorf("run PostgreSQL as %q: list its groups: %w", name, err)
	}
	for _, g := range groups {
		n, err := strconv.ParseUint(g, 10, 32)
		if err != nil {
			return identity{}, fmt.Errorf("run PostgreSQL as %q: group %q: %w", name, g, err)
		}
		id.groups = append(id.groups, uint32(n))
	}
	return id, nil
}

// credential is nil when no change of user is needed.
func (id identity) credential() *syscall.Credential {
	if !id.drop {
		return nil
	}
	return &syscall.Credential{Uid: uint32(id.uid), Gid: uint32(id.gid), Groups: id.groups} //nolint:gosec // ids of the system
}

// own gives a path to the user. Links are not followed: root must not be led elsewhere by whoever can write there.
func (id identity) own(path string) error {
	if !id.drop {
		return nil
	}
	return os.Lchown(path, id.uid, id.gid)
}

// makeDir creates a private folder of the user, or checks that one is.
func (id identity) makeDir(path string) error {
	err := os.Mkdir(path, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return id.checkPrivate(path)
	}
	if err != nil {
		return fmt.Errorf("create folder: %w", err)
	}
	return id.own(path)
}

func (id identity) checkPrivate(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s: expected a folder, found a %s", path, info.Mode().Type())
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if ok && int(stat.Uid) != id.uid {
		if !id.drop || stat.Uid != 0 {
			return fmt.Errorf("%s belongs to user id %d, expected %d (%s)", path, stat.Uid, id.uid, id.name)
		}
		if err := id.own(path); err != nil {
			return err
		}
	}
	return os.Chmod(path, 0o700) //nolint:gosec // a folder needs x
}

// checkReach reports the first folder on the way to path that the user may not pass through. Only root needs to ask: it can
// create what PostgreSQL cannot reach.
func (id identity) checkReach(path string) error {
	if !id.drop {
		return nil
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err == nil && !id.mayPass(info) {
			return fmt.Errorf("user %q may not pass through %s (mode %04o), which lies above %s: chmod o+x it or choose another place",
				id.name, dir, info.Mode().Perm(), path)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

func (id identity) mayPass(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return true
	}
	perm := info.Mode().Perm()
	if int(stat.Uid) == id.uid {
		return perm&0o100 != 0
	}
	if int(stat.Gid) == id.gid {
		return perm&0o010 != 0
	}
	for _, g := range id.groups {
		if stat.Gid == g {
			return perm&0o010 != 0
		}
	}
	return perm&0o001 != 0
}

func shortHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:8])
}
