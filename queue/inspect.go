package queue

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/durable"
)

// List returns the entries of the queue in a directory, in order, without
// opening the queue: it makes nothing and removes nothing. A missing directory
// is an error that wraps fs.ErrNotExist.
func List(dir string) ([]Entry, error) {
	d, err := durable.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("list queue: %w", err)
	}
	defer d.Close() //nolint:errcheck // opened to read
	return (&Queue{dir: d, path: dir}).List()
}

// looked bounds the entries that Unreadable looks at.
const looked = 64

// Unreadable says why the first of the entries that can be listed cannot be read
// now, as for want of a right or on a disk that fails; nil where the first 64 can.
func Unreadable(dir string) error {
	d, err := durable.Open(dir)
	if err != nil {
		return fmt.Errorf("look at the queue: %w", err)
	}
	defer d.Close() //nolint:errcheck // opened to read
	q := &Queue{dir: d, path: dir}
	entries, err := q.List()
	if err != nil {
		return err
	}
	for _, e := range entries[:min(len(entries), looked)] {
		f, err := d.OpenFile(e.Name, os.O_RDONLY)
		if err == nil {
			_, err = f.Read(make([]byte, 1))
			_ = f.Close() // opened to read
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, io.EOF) {
			return fmt.Errorf("entry %s: %w", clip(e.Name), err)
		}
	}
	return nil
}

// QuarantinedFile is a file that could not be used as an entry.
type QuarantinedFile struct {
	Name string
	// Reason is empty where its .reason file is missing.
	Reason string
	// Since is when it was moved away.
	Since time.Time
}

// ListQuarantine returns what is in the quarantine of the queue in a directory.
func ListQuarantine(dir string) ([]QuarantinedFile, error) {
	names, err := (&Queue{path: dir}).Quarantined()
	if err != nil || len(names) == 0 {
		return nil, err
	}
	jail, err := durable.Open(dir + "/" + QuarantineDir)
	if err != nil {
		return nil, fmt.Errorf("list the quarantine: %w", err)
	}
	defer jail.Close() //nolint:errcheck // opened to read
	files := make([]QuarantinedFile, 0, len(names))
	for _, name := range names {
		file := QuarantinedFile{Name: name}
		f, err := jail.OpenFile(name+reasonSuffix, 0)
		if err == nil {
			text, _ := io.ReadAll(io.LimitReader(f, maxReason)) // a reason that cannot be read is none
			file.Reason = strings.TrimSpace(string(text))
			if info, err := f.Stat(); err == nil {
				file.Since = info.ModTime()
			}
			_ = f.Close() // opened to read
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read why %s is in quarantine: %w", clip(name), err)
		}
		files = append(files, file)
	}
	return files, nil
}
