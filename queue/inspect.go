package queue

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
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
	jail, err := durable.Open(dir + "/" + quarantineName)
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
