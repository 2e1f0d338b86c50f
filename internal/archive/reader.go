package archive

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"slices"
	"unicode/utf8"

	"github.com/oklog/ulid/v2"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/checkpoint"
)

// reader reads an archive line by line and checks all that can be checked on
// the way. Call start, events, bodies, then finish: only that one says that the
// whole was in order.
type reader struct {
	r       *bufio.Reader
	sum     hash.Hash
	line    []byte // the line at hand, not yet taken, without its break
	number  int64
	header  header
	tree    eventlog.Edge
	hashes  []byte // those that the event at hand completes
	lastID  string
	digest  string
	kept    checkpoint.Checkpoint
	owed    *owed
	seen    []string
	summary Summary
}

func newReader(r io.Reader) *reader {
	return &reader{r: bufio.NewReaderSize(r, 1<<16), sum: sha256.New()}
}

func (r *reader) damaged(err error) error { return &DamagedError{r.number, err} }

// peek returns the next line and leaves it to be taken.
func (r *reader) peek() ([]byte, error) {
	if r.line != nil {
		return r.line, nil
	}
	r.number++
	line := []byte{}
	for {
		part, err := r.r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > maxLine:
			return nil, r.damaged(fmt.Errorf("it is longer than %d bytes", maxLine))
		case err == nil && !utf8.Valid(line): // or the database would be the first to say so
			return nil, r.damaged(errors.New("it is no UTF-8"))
		case err == nil:
			r.line = line[:len(line)-1]
			return r.line, nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(line) == 0:
			return nil, r.damaged(errors.New("the file ends here, without its last line: it was cut off"))
		case errors.Is(err, io.EOF):
			return nil, r.damaged(errors.New("the file ends within this line: it was cut off"))
		default:
			return nil, fmt.Errorf("read line %d: %w", r.number, err)
		}
	}
}

// take counts the line at hand as read.
func (r *reader) take() {
	r.sum.Write(r.line)
	r.sum.Write([]byte{'\n'})
	r.line = nil
}

// compressed are how files begin that were put through a program on the way.
var compressed = map[string]string{"\x1f\x8b": "gzip", "\x28\xb5\x2f\xfd": "zstd", "\xfd7zXZ": "xz", "BZh": "bzip2"}

func (r *reader) start() error {
	for magic, program := range compressed {
		if begin, err := r.r.Peek(len(magic)); err == nil && string(begin) == magic {
			r.number = 1
			return r.damaged(fmt.Errorf("the file is compressed: unpack it on the way, as in `%s -dc FILE | durhack-deployer log import -`", program))
		}
	}
	line, err := r.peek()
	if err != nil {
		return err
	}
	if err := r.readHeader(line); err != nil {
		return r.damaged(err)
	}
	r.take()
	return nil
}

func (r *reader) readHeader(line []byte) error {
	if !bytes.HasPrefix(line, []byte(headerKey)) {
		return errors.New("this is no export of a log: it begins otherwise")
	}
	// The version is what may change the other keys, so it is looked at first.
	if err := json.Unmarshal(line, &r.header); err != nil {
		return err
	}
	if r.header.Format != Format || r.header.Version != Version {
		return fmt.Errorf("it has format %q, version %d; this binary knows %q, version %d", r.header.Format, r.header.Version, Format, Version)
	}
	r.header = header{}
	if err := unmarshal(line, &r.header); err != nil {
		return err
	}
	if err := spelled(line, r.header); err != nil {
		return err
	}
	if r.header.BodiesAfter < 0 || r.header.BodiesAfter > 0 && !r.header.Bodies {
		return fmt.Errorf("bodies_after is %d, with bodies %t", r.header.BodiesAfter, r.header.Bodies)
	}
	if r.header.Checkpoint != "" {
		var err error
		if r.kept, err = checkpoint.Unverified([]byte(r.header.Checkpoint)); err != nil {
			return err
		}
		r.summary.Checkpoint, r.summary.Signed = r.header.Checkpoint, r.kept.N
	}
	r.owed = newOwed(r.header.BodiesAfter)
	return nil
}

// events calls each, where it is not nil, with every event.
func (r *reader) events(each func(*eventlog.Event) error) error {
	return lines(r, eventKey, r.event, each)
}

// bodies calls each, where it is not nil, with every body.
func (r *reader) bodies(each func(*bodyLine) error) error { return lines(r, bodyKey, r.body, each) }

// lines reads the lines that follow and begin with the key, and calls each with every one.
func lines[T any](r *reader, key string, read func(line []byte) (*T, error), each func(*T) error) error {
	for {
		line, err := r.peek()
		if err != nil || !bytes.HasPrefix(line, []byte(key)) {
			return err
		}
		v, err := read(line)
		if err != nil {
			return r.damaged(err)
		}
		r.take()
		if each == nil {
			continue
		}
		if err := each(v); err != nil {
			return err
		}
	}
}

func (r *reader) event(line []byte) (*eventlog.Event, error) {
	var l eventLine
	if err := unmarshal(line, &l); err != nil {
		return nil, err
	}
	if l.DataRaw != nil {
		l.Data = []byte(*l.DataRaw)
	}
	e := eventlog.Event{
		Position: l.Position, ID: l.ID, Instance: l.Instance, DeliveryID: l.DeliveryID, Type: l.Type,
		Deployment: l.Deployment, Attempt: l.Attempt, Actor: l.Actor, RecordedAt: l.RecordedAt.UTC(), Data: l.Data,
	}
	if err := r.check(e, line); err != nil {
		return nil, err
	}
	r.hashes = r.tree.Add(eventlog.LeafHash(&e), nil)
	r.summary.Events++
	if r.summary.Events == r.kept.N && r.tree.Root() != r.kept.Hash {
		return nil, fmt.Errorf("the %d events up to here are not those of the checkpoint in the first line", r.kept.N)
	}
	if r.summary.First.IsZero() {
		r.summary.First = e.RecordedAt
	}
	r.summary.Last = e.RecordedAt
	return &e, nil
}

func (r *reader) check(e eventlog.Event, line []byte) error {
	if want := r.summary.Events + 1; e.Position != want {
		return fmt.Errorf("position %d where %d must come", e.Position, want)
	}
	if id, err := ulid.ParseStrict(e.ID); err != nil || id.String() != e.ID || e.ID <= r.lastID {
		return fmt.Errorf("the event's ID %q does not follow %q", e.ID, r.lastID)
	}
	r.lastID = e.ID
	if e.RecordedAt.IsZero() || e.RecordedAt.Nanosecond()%1000 != 0 {
		return fmt.Errorf("recorded_at %s is no time that a log holds", e.RecordedAt)
	}
	if e.RecordedAt.Before(r.summary.Last) {
		return fmt.Errorf("recorded_at %s is before that of the position before", e.RecordedAt)
	}
	if e.Attempt < 0 || e.Attempt > math.MaxInt32 {
		return fmt.Errorf("attempt %d is none that a log holds", e.Attempt)
	}
	if written, err := appendEvent(nil, &e); err != nil || !bytes.Equal(written, line) {
		return errSpelling
	}
	if !slices.Contains(r.header.Instances, e.Instance) {
		return fmt.Errorf("it is of instance %q, which the first line does not name", e.Instance)
	}
	if !slices.Contains(r.seen, e.Instance) {
		r.seen = append(r.seen, e.Instance)
	}
	if _, err := e.Decode(); err != nil {
		return err
	}
	if !r.header.Bodies {
		return nil
	}
	return r.owed.event(&e)
}

func (r *reader) body(line []byte) (*bodyLine, error) {
	var b bodyLine
	if err := unmarshal(line, &b); err != nil {
		return nil, err
	}
	switch {
	case !r.header.Bodies:
		return nil, errors.New("a body, though the first line says that there is none")
	case b.Body == nil: // null, where an export writes ""
		return nil, errSpelling
	case b.Digest <= r.digest:
		return nil, fmt.Errorf("body %s does not follow %s", b.Digest, r.digest)
	}
	r.digest = b.Digest
	r.summary.Bodies++
	return &b, errors.Join(spelled(line, b), r.owed.body(b.payload()))
}

// finish reads the trailer and compares it with what came.
func (r *reader) finish() (Summary, error) {
	line, err := r.peek()
	if err != nil {
		return Summary{}, err
	}
	if err := r.readTrailer(line); err != nil {
		return Summary{}, r.damaged(err)
	}
	if rest, err := io.ReadAll(io.LimitReader(r.r, 1)); err != nil || len(rest) > 0 {
		return Summary{}, r.damaged(errors.New("there is something behind the last line"))
	}
	s := r.summary
	s.LeftOut = r.header.BodiesAfter
	if !r.header.Bodies {
		s.LeftOut = s.Events
	}
	s.Root, s.Instances = r.tree.Root(), r.seen
	return s, nil
}

func (r *reader) readTrailer(line []byte) error {
	if !bytes.HasPrefix(line, []byte(trailerKey)) {
		return errors.New("it is neither an event nor a body nor the last line")
	}
	var t trailer
	if err := unmarshal(line, &t); err != nil {
		return err
	}
	if err := spelled(line, t); err != nil { // no hash covers this line itself
		return err
	}
	root, s := r.tree.Root(), r.summary
	slices.Sort(r.seen)
	switch {
	case !t.End || t.Events != s.Events || t.TreeSize != s.Events || t.Bodies != s.Bodies:
		return fmt.Errorf("it counts %d events and %d bodies, but %d and %d came", t.Events, t.Bodies, s.Events, s.Bodies)
	case !slices.Equal(r.seen, r.header.Instances):
		return fmt.Errorf("the first line names the instances %q, but events came of %q", r.header.Instances, r.seen)
	case !bytes.Equal(t.Root, root[:]):
		return errors.New("the events are not those that were exported: their tree has another root")
	case t.SHA256 != hex.EncodeToString(r.sum.Sum(nil)):
		return errors.New("the bytes are not those that were exported: their SHA-256 differs")
	case r.header.BodiesAfter > s.Events:
		return fmt.Errorf("the first line says that bodies come after position %d, but there are %d events", r.header.BodiesAfter, s.Events)
	case r.kept.N > s.Events:
		return fmt.Errorf("the checkpoint of the first line is of %d events, but there are %d", r.kept.N, s.Events)
	}
	return r.owed.rest()
}
