package checkpoint

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
)

// maxManifestBytes bounds what is read before anything is known.
const maxManifestBytes = 64 << 20

// Export writes the checkpoint as one file: a tar archive, compressed with zstd, with the manifest first and then the files in the manifest's order.
// Each file is compared with its digest on the way: a damaged checkpoint is not exported, and what was written until then cannot be imported.
func (c *Checkpoint) Export(ctx context.Context, w io.Writer) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderCRC(true))
	if err == nil {
		t := tar.NewWriter(z)
		if err = c.export(ctx, t); err == nil {
			err = t.Close()
		}
		err = errors.Join(err, z.Close())
	}
	if err != nil {
		return fmt.Errorf("export the checkpoint %s: %w", c.dir, err)
	}
	return nil
}

func (c *Checkpoint) export(ctx context.Context, t *tar.Writer) error {
	raw, err := c.encode()
	if err != nil {
		return err
	}
	if err := t.WriteHeader(c.header(manifestFile, int64(len(raw)))); err != nil {
		return err
	}
	if _, err := t.Write(raw); err != nil {
		return err
	}
	for _, f := range c.Files {
		if err := c.exportFile(ctx, t, f); err != nil {
			return err
		}
	}
	return nil
}

// header says nothing about the machine or the user that writes.
func (c *Checkpoint) header(name string, size int64) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o640, ModTime: c.CreatedAt, Format: tar.FormatPAX}
}

func (c *Checkpoint) exportFile(ctx context.Context, t *tar.Writer, f File) (err error) {
	in, err := os.Open(filepath.Join(c.dir, storeDir, filepath.FromSlash(f.Name))) //nolint:gosec // the name was checked
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	if err := t.WriteHeader(c.header(path.Join(storeDir, f.Name), f.Size)); err != nil {
		return err
	}
	return copyVerified(ctx, t, in, f)
}

// Import reads what [Checkpoint.Export] has written into dir, which must not exist. Every file is compared with its digest; whatever is wrong,
// nothing is left behind. Errors wrap [ErrDamaged] or [ErrVersion] where the file is not what was exported.
func Import(ctx context.Context, r io.Reader, dir string) (*Checkpoint, error) {
	c, err := beside(dir, func(beside string) (*Manifest, error) {
		z, err := zstd.NewReader(r)
		if err != nil {
			return nil, err
		}
		defer z.Close()
		return importTo(ctx, z, beside)
	})
	if err != nil {
		return nil, fmt.Errorf("import a checkpoint into %s: %w", dir, err)
	}
	return c, nil
}

func importTo(ctx context.Context, z *zstd.Decoder, dir string) (*Manifest, error) {
	t := tar.NewReader(z)
	h, err := t.Next()
	if err != nil || h.Name != manifestFile || h.Size > maxManifestBytes {
		return nil, fmt.Errorf("%w: expected a file that `regent checkpoint export` has written, with %s first: %w", ErrDamaged, manifestFile, orUnexpected(err))
	}
	raw, err := io.ReadAll(t)
	if err != nil {
		return nil, fmt.Errorf("%w: read %s: %w", ErrDamaged, manifestFile, err)
	}
	m, err := decodeManifest(raw)
	if err != nil {
		return nil, err
	}
	for _, f := range m.Files {
		h, err := t.Next()
		if err != nil {
			return nil, fmt.Errorf("%w: %s is missing: %w", ErrDamaged, f.Name, orUnexpected(err))
		}
		if h.Typeflag != tar.TypeReg || h.Name != path.Join(storeDir, f.Name) {
			return nil, fmt.Errorf("%w: found %q, expected %s", ErrDamaged, h.Name, f.Name)
		}
		if err := importFile(ctx, t, filepath.Join(dir, storeDir, filepath.FromSlash(f.Name)), f); err != nil {
			return nil, err
		}
	}
	if h, err := t.Next(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = fmt.Errorf("%s does not belong to it", h.Name)
		}
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if _, err := io.Copy(io.Discard, z); err != nil { // the checksum of the whole stands at its end
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return m, nil
}

// orUnexpected names the end of a file as what it is.
func orUnexpected(err error) error {
	if err == nil {
		return errors.New("found something else")
	}
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func importFile(ctx context.Context, in io.Reader, name string, f File) (err error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o750); err != nil {
		return err
	}
	out, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640) //nolint:gosec // the name was checked
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := copyVerified(ctx, out, in, f); err != nil {
		return err
	}
	return out.Sync()
}

// copyVerified copies exactly what the manifest says.
func copyVerified(ctx context.Context, w io.Writer, r io.Reader, f File) error {
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(w, h), io.LimitReader(&cancellable{ctx: ctx, r: r}, f.Size+1))
	switch sum := hex.EncodeToString(h.Sum(nil)); {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case n != f.Size:
		return fmt.Errorf("%w: %s has not the %d bytes that are expected: %w", ErrDamaged, f.Name, f.Size, orUnexpected(err))
	case err != nil:
		return fmt.Errorf("copy %s: %w", f.Name, err)
	case sum != f.SHA256:
		return fmt.Errorf("%w: %s has the digest %s, expected %s", ErrDamaged, f.Name, sum, f.SHA256)
	}
	return nil
}

// cancellable ends with its context.
type cancellable struct {
	ctx context.Context //nolint:containedctx // it belongs to one copy
	r   io.Reader
}

func (c *cancellable) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}
