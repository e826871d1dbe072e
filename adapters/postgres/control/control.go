// Package control reads global/pg_control, the file in which a PostgreSQL data directory says what it is and how it was left.
//
// PostgreSQL's own reader, pg_controldata, is missing from the published archives and prints text in the user's language; this
// one needs only the file. It reads the formats of PostgreSQL 13 to 18 on 64-bit little-endian machines:
//
//	offset size field (all versions unless said otherwise)
//	0      8    system identifier
//	8      4    pg_control_version: 1300 (PostgreSQL 13 to 16), 1700 (17), 1800 (18)
//	12     4    catalog version, which tells 13 to 16 apart
//	16     4    state                                24  8  time of the last update (Unix seconds)
//	32     8    position of the latest checkpoint record
//	40     8    its redo position                    48  4  its timeline          52  4  the timeline before it
//	64     8    next transaction id with epoch       104 8  time of the checkpoint
//	136    8    minimum recovery point               144 4  its timeline
//	152    8    backup start position                160 8  backup end position   168 1  backup end required
//	172    4    wal_level                            176 1  wal_log_hints
//	180 to 196  max_connections, max_worker_processes, max_wal_senders, max_prepared_transactions, max_locks_per_transaction
//	228    4    WAL segment size                     252 4  data checksum version (0: off)
//	288    4    CRC-32C of everything before it (at 292 in 18, which added one flag before the nonce)
//
// PostgreSQL rewrites the file in place and relies on a sector being written whole; a reader that meets the write sees a wrong
// CRC. [Read] therefore reads again before it believes in damage.
package control

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/regent-infra/regent/adapters/postgres/wal"
)

// Path is where the file lies in a data directory.
const Path = "global/pg_control"

// State is how the server that last wrote the file was doing (DBState of pg_control.h).
type State uint32

// The states, in PostgreSQL's numbering.
const (
	StateStartingUp State = iota
	StateShutDown
	StateShutDownInRecovery
	StateShuttingDown
	StateInCrashRecovery
	StateInArchiveRecovery
	StateInProduction
)

// String says the state in pg_controldata's words.
func (s State) String() string {
	names := [...]string{
		"starting up", "shut down", "shut down in recovery", "shutting down",
		"in crash recovery", "in archive recovery", "in production",
	}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("unrecognised state %d", uint32(s))
}

// Data is what the control file says.
type Data struct {
	// SystemIdentifier is given by initdb and shared by all copies: two servers with different ones are not of one cluster.
	SystemIdentifier uint64
	// Major is the version of PostgreSQL that the directory belongs to, 13 to 18.
	Major          int
	ControlVersion uint32
	CatalogVersion uint32
	State          State
	// UpdatedAt is when the file was last written, by the host's wall clock.
	UpdatedAt time.Time
	// Checkpoint is where the latest checkpoint's record starts; recovery begins at its Redo on its Timeline.
	Checkpoint         wal.LSN
	Redo               wal.LSN
	Timeline           wal.Timeline
	PreviousTimeline   wal.Timeline
	NextTransactionID  uint64
	CheckpointAt       time.Time
	MinRecovery        wal.LSN
	MinRecoveryLine    wal.Timeline
	BackupStart        wal.LSN
	BackupEnd          wal.LSN
	BackupEndRequired  bool
	WalLevel           int32
	WalLogHints        bool
	MaxConnections     int32
	MaxWorkerProcesses int32
	MaxWalSenders      int32
	MaxPreparedXacts   int32
	MaxLocksPerXact    int32
	SegmentSize        wal.SegmentSize
	DataChecksums      bool
}

// CleanShutdown says whether the server stopped by itself: nothing needs to be recovered.
func (d Data) CleanShutdown() bool {
	return d.State == StateShutDown || d.State == StateShutDownInRecovery
}

// CanRewind says whether pg_rewind can work on this directory: it needs to know every page that was changed.
func (d Data) CanRewind() bool { return d.DataChecksums || d.WalLogHints }

// ErrVersion is wrapped when the directory belongs to a version that is not known here.
var ErrVersion = errors.New("unsupported PostgreSQL version")

// ErrDamaged is wrapped when the file is torn, truncated or of another architecture.
var ErrDamaged = errors.New("damaged control file")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// catalogs maps the catalog version of a release to its major version.
var catalogs = map[uint32]int{
	202007201: 13, 202107181: 14, 202209061: 15, 202307071: 16, 202406281: 17, 202506291: 18,
}

const (
	crcOffset13 = 288
	crcOffset18 = 292
	fileSize    = 8192
	readTries   = 3
)

// Read reads the control file of a data directory.
func Read(dataDir string) (Data, error) {
	path := filepath.Join(dataDir, Path)
	var previous []byte
	for try := 1; ; try++ {
		content, err := readFile(path)
		if err != nil {
			return Data{}, fmt.Errorf("read control file of %s: %w", dataDir, err)
		}
		data, err := Parse(content)
		if err == nil {
			return data, nil
		}
		// Two equal damaged images are no torn read.
		if !errors.Is(err, ErrDamaged) || try == readTries || bytes.Equal(previous, content) {
			return Data{}, fmt.Errorf("read control file %s: %w", path, err)
		}
		previous = content
	}
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // opened for reading: nothing can be lost
	return io.ReadAll(io.LimitReader(f, fileSize))
}

// Parse reads the content of a control file.
func Parse(content []byte) (Data, error) {
	le := binary.LittleEndian
	if len(content) < crcOffset18+4 {
		return Data{}, fmt.Errorf("%w: expected at least %d bytes, got %d", ErrDamaged, crcOffset18+4, len(content))
	}
	version, catalog := le.Uint32(content[8:]), le.Uint32(content[12:])
	crcOffset := crcOffset13
	switch version {
	case 1300, 1700:
	case 1800:
		crcOffset = crcOffset18
	default:
		if version > 1<<16 {
			return Data{}, fmt.Errorf("%w: format %#x belongs to a machine of another byte order", ErrDamaged, version)
		}
		return Data{}, fmt.Errorf("%w: control file format %d; expected a directory of PostgreSQL 13 to 18", ErrVersion, version)
	}
	if want, got := le.Uint32(content[crcOffset:]), crc32.Checksum(content[:crcOffset], castagnoli); want != got {
		return Data{}, fmt.Errorf("%w: checksum is %08x, computed %08x", ErrDamaged, want, got)
	}
	major, ok := catalogs[catalog]
	if !ok {
		return Data{}, fmt.Errorf("%w: catalog version %d; expected a release of PostgreSQL 13 to 18", ErrVersion, catalog)
	}
	u32 := func(at int) uint32 { return le.Uint32(content[at:]) }
	i32 := func(at int) int32 { return int32(u32(at)) } //nolint:gosec // the field is an int in C
	u64 := func(at int) uint64 { return le.Uint64(content[at:]) }
	at := func(o int) time.Time { return time.Unix(int64(u64(o)), 0).UTC() } //nolint:gosec // pg_time_t is signed
	d := Data{
		SystemIdentifier: u64(0), Major: major, ControlVersion: version, CatalogVersion: catalog,
		State: State(u32(16)), UpdatedAt: at(24), Checkpoint: wal.LSN(u64(32)), Redo: wal.LSN(u64(40)),
		Timeline: wal.Timeline(u32(48)), PreviousTimeline: wal.Timeline(u32(52)), NextTransactionID: u64(64),
		CheckpointAt: at(104), MinRecovery: wal.LSN(u64(136)), MinRecoveryLine: wal.Timeline(u32(144)),
		BackupStart: wal.LSN(u64(152)), BackupEnd: wal.LSN(u64(160)), BackupEndRequired: content[168] != 0,
		WalLevel: i32(172), WalLogHints: content[176] != 0, MaxConnections: i32(180), MaxWorkerProcesses: i32(184),
		MaxWalSenders: i32(188), MaxPreparedXacts: i32(192), MaxLocksPerXact: i32(196),
		SegmentSize: wal.SegmentSize(u32(228)), DataChecksums: u32(252) != 0,
	}
	if err := d.SegmentSize.Validate(); err != nil {
		return Data{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return d, nil
}
