package queue

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/ducompsoc/durhack-deployer/internal/durable"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

const (
	// QuarantineDir is the directory in a queue of what could not be an entry.
	QuarantineDir = "quarantine"
	reasonSuffix  = ".reason"
	// maxReason bounds a reason file, in bytes.
	maxReason = 4 << 10
	// maxStem bounds the part of a quarantined name that is taken from the
	// original, so that there is room for suffixes within the system's 255.
	maxStem = 200
)

// Quarantine moves an entry out of the way, to "quarantine" in the queue's
// directory, with the reason in a file beside it. It replaces nothing there: a
// second entry of that name gets a number. A missing entry is not an error.
func (q *Queue) Quarantine(e Entry, reason error) error {
	return q.quarantine(e.Name, reason)
}

func (q *Queue) quarantine(name string, reason error) error {
	if err := q.moveAway(name, reason); err != nil {
		return fmt.Errorf("quarantine %q: %w", clip(name), err)
	}
	q.log.Warn("moved a file to the quarantine", "file", name, "reason", reason)
	return nil
}

func (q *Queue) moveAway(name string, reason error) error {
	if hidden(name) || name == QuarantineDir {
		return fmt.Errorf("it is not an entry: %w", fs.ErrInvalid)
	}
	if exists, err := q.dir.Exists(name); err != nil || !exists {
		return err
	}
	jail, err := q.dir.Sub(QuarantineDir)
	if err != nil {
		return err
	}
	defer jail.Close() //nolint:errcheck // nothing was written through this descriptor
	for n := 0; ; n++ {
		target := quarantinedName(name, n)
		reserved, err := reserve(jail, target, reason)
		if err != nil {
			return err
		}
		if !reserved {
			continue
		}
		err = q.dir.Move(name, jail, target)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			_ = jail.Remove(target + reasonSuffix) // the reason of nothing
			if errors.Is(err, fs.ErrNotExist) {
				return nil // somebody else took it
			}
			return err
		}
		// Where it went first: a crash in between must not lose it.
		if err := jail.Sync(); err != nil {
			return err
		}
		return q.dir.Sync()
	}
}

// reserve writes the reason file of target, unless target is in use. A reason
// without its entry is left from a crash and replaced.
func reserve(jail *durable.Dir, target string, reason error) (bool, error) {
	if taken, err := jail.Exists(target); err != nil || taken {
		return false, err
	}
	staged, err := jail.Stage(func(w io.Writer) error {
		_, err := io.WriteString(w, reasonText(reason))
		return err
	})
	if err != nil {
		return false, err
	}
	defer staged.Discard()
	return true, staged.Replace(target + reasonSuffix)
}

// quarantinedName is the nth name that is tried for name.
func quarantinedName(name string, n int) string {
	if len(name) > maxStem {
		name = name[:maxStem]
	}
	if strings.HasSuffix(name, reasonSuffix) {
		name += "_" // it would look like the reason of something
	}
	if n > 0 {
		name += "." + strconv.Itoa(n)
	}
	return name
}

// reasonText is for an operator's terminal: nothing that steers one is in it.
func reasonText(reason error) string {
	text := "no reason was given"
	if reason != nil {
		text = reason.Error()
	}
	text = strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
	return words.Cut(text, maxReason, "") + "\n"
}

// Quarantined returns the names of the files in quarantine, in order, without
// their reasons (Name + ".reason").
func (q *Queue) Quarantined() ([]string, error) {
	jail, err := durable.Open(filepath.Join(q.path, QuarantineDir))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the quarantine: %w", err)
	}
	defer jail.Close() //nolint:errcheck // opened to read
	var names []string
	err = jail.Scan(func(name string, _ fs.FileMode) error {
		if !hidden(name) && !strings.HasSuffix(name, reasonSuffix) {
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the quarantine: %w", err)
	}
	slices.Sort(names)
	return names, nil
}
