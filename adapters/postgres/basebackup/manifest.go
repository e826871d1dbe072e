package basebackup

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"strconv"
)

// manifestFile is one entry of a backup manifest.
type manifestFile struct {
	path   string
	size   int64
	crc    uint32
	hasCRC bool
}

// parseManifest reads a backup manifest (manual, "Backup Manifest Format"): JSON whose last member is the SHA-256 of everything
// up to the line before it.
func parseManifest(content []byte) ([]manifestFile, error) {
	var m struct {
		Version int `json:"PostgreSQL-Backup-Manifest-Version"`
		Files   []struct {
			Path        *string `json:"Path"`
			EncodedPath *string `json:"Encoded-Path"`
			Size        int64   `json:"Size"`
			Algorithm   string  `json:"Checksum-Algorithm"`
			Checksum    string  `json:"Checksum"`
		} `json:"Files"`
		Checksum string `json:"Manifest-Checksum"`
	}
	if err := json.Unmarshal(content, &m); err != nil {
		return nil, fmt.Errorf("read the manifest: %w", err)
	}
	if m.Version != 1 && m.Version != 2 {
		return nil, fmt.Errorf("read the manifest: expected version 1 or 2, got %d", m.Version)
	}
	end := bytes.LastIndex(content, []byte("\n\"Manifest-Checksum\""))
	if end < 0 {
		return nil, errors.New("read the manifest: it has no checksum")
	}
	if sum := sha256.Sum256(content[:end+1]); hex.EncodeToString(sum[:]) != m.Checksum {
		return nil, errors.New("the manifest does not have its own checksum")
	}
	files := make([]manifestFile, 0, len(m.Files))
	for _, f := range m.Files {
		file := manifestFile{size: f.Size}
		switch {
		case f.Path != nil:
			file.path = *f.Path
		case f.EncodedPath != nil:
			raw, err := hex.DecodeString(*f.EncodedPath)
			if err != nil {
				return nil, fmt.Errorf("read the manifest: path %q: %w", *f.EncodedPath, err)
			}
			file.path = string(raw)
		default:
			return nil, errors.New("read the manifest: a file has no path")
		}
		if f.Algorithm == "CRC32C" {
			// The bytes stand as they lie in memory: little-endian.
			crc, err := strconv.ParseUint(f.Checksum, 16, 32)
			if err != nil || len(f.Checksum) != 8 {
				return nil, fmt.Errorf("read the manifest: checksum %q of %s: expected 8 hexadecimal digits", f.Checksum, file.path)
			}
			file.crc, file.hasCRC = bits.ReverseBytes32(uint32(crc)), true
		}
		files = append(files, file)
	}
	return files, nil
}
