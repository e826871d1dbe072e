// Package binary finds the PostgreSQL programs of this machine, or fetches published ones.
//
//	set, err := binary.Find(ctx, binary.FindOptions{Major: 15})      // installed ones
//	if errors.Is(err, binary.ErrNotFound) {
//		set, err = binary.Fetch(ctx, binary.FetchOptions{Major: 15}) // published archives, verified and cached
//	}
//	path, err := set.Path(binary.ToolRewind)
//
// [Locate] is the two together. Find looks, in this order, in the directory that it is given, in PATH, where pg_config says,
// and in the folders of the distributions (Debian and Ubuntu, the PostgreSQL RPMs, Homebrew, Postgres.app); among those folders
// the newest supported version comes first. A directory that is given is the only place that is looked at.
//
// Versions 13 to 18 are accepted. A directory counts if it has postgres and initdb and `postgres --version` runs; which of the
// other tools it has is in the [Set], because the published archives hold only initdb, pg_ctl and postgres.
//
// Fetch takes the archives that io.zonky.test.postgres publishes on Maven Central as embedded-postgres-binaries-OS-ARCH: a jar
// with one .txz inside. Invariants: (1) nothing of an archive is unpacked before its SHA-256 matches: the one that is compiled in here if the version is
// known, and the published one in any case; (2) a directory in the cache is complete, because it appears by one rename; (3) its name
// carries the hash, so that another archive of the same version never mixes with it; (4) no entry is written outside of it.
package binary
