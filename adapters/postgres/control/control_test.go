package control

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/regent-infra/regent/adapters/postgres/wal"
)

// The fixtures are the first 512 bytes of the file right after `initdb --data-checksums` of each version.
func TestParseEveryVersion(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		file       string
		major      int
		system     uint64
		checkpoint string
		nextXID    uint64
	}{
		{"13.23.0", 13, 0x6b03c3568942731b, "0/1813E28", 0x1e5},
		{"14.18.0", 14, 0x6b03c2ffdcec620b, "0/1943160", 0x2dd},
		{"15.18.0", 15, 0x6b03c301c5b62287, "0/17414F8", 0x2d4},
		{"16.9.0", 16, 0x6b03c30054f82219, "0/1720FB8", 0x2da},
		{"17.5.0", 17, 0x6b03c300b5afa227, "0/17218C8", 0x2e2},
		{"18.3.0", 18, 0x6b03c30138f59248, "0/174B290", 0x2f0},
	} {
		t.Run(c.file, func(t *testing.T) {
			t.Parallel()
			content, err := os.ReadFile(filepath.Join("testdata", c.file+".pg_control"))
			if err != nil {
				t.Fatal(err)
			}
			d, err := Parse(content)
			if err != nil {
				t.Fatal(err)
			}
			if d.Major != c.major || d.SystemIdentifier != c.system || d.Checkpoint.String() != c.checkpoint || d.NextTransactionID != c.nextXID {
				t.Errorf("parsed %+v, want major %d, system %x, checkpoint %s, next xid %d", d, c.major, c.system, c.checkpoint, c.nextXID)
			}
			if d.State != StateShutDown || !d.CleanShutdown() || d.Timeline != 1 || d.Redo != d.Checkpoint ||
				!d.DataChecksums || !d.CanRewind() || d.SegmentSize != wal.DefaultSegmentSize || d.MaxConnections != 100 ||
				d.MaxWalSenders != 10 || d.WalLevel != 1 {
				t.Errorf("fields after initdb are wrong: %+v", d)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	good, err := os.ReadFile(filepath.Join("testdata", "15.18.0.pg_control"))
	if err != nil {
		t.Fatal(err)
	}
	change := func(at int, b byte) []byte {
		c := append([]byte(nil), good...)
		c[at] = b
		return c
	}
	for _, c := range []struct {
		name    string
		content []byte
		is      error
		message string
	}{
		{"truncated", good[:100], ErrDamaged, "damaged control file: expected at least 296 bytes, got 100"},
		{"empty", nil, ErrDamaged, "damaged control file: expected at least 296 bytes, got 0"},
		{"flipped bit", change(40, 1), ErrDamaged, "damaged control file: checksum is 160f48f5, computed a8deed69"},
		{"old version", change(8, 0xb1), ErrVersion, "unsupported PostgreSQL version: control file format 1457; expected a directory of PostgreSQL 13 to 18"},
		{"byte order", change(11, 5), ErrDamaged, "damaged control file: format 0x5000514 belongs to a machine of another byte order"},
	} {
		_, err := Parse(c.content)
		if !errors.Is(err, c.is) || err.Error() != c.message {
			t.Errorf("%s: got %q, want %q", c.name, err, c.message)
		}
	}
	if _, err := Read(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no control file: want os.ErrNotExist, got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, v := range []string{"13.23.0", "15.18.0", "18.3.0"} {
		content, err := os.ReadFile(filepath.Join("testdata", v+".pg_control"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		d, err := Parse(content)
		if err == nil && d.SegmentSize.Validate() != nil {
			t.Fatalf("accepted a segment size of %d", d.SegmentSize)
		}
	})
}
