package archive

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/checkpoint"
)

// ExportOptions say what goes into an archive.
type ExportOptions struct {
	// Bodies includes the stored bodies. Without them the deliveries cannot be replayed.
	Bodies bool
	// Checkpoint is the signed checkpoint that was kept last, or nil. The log must
	// contain it. Its signature is the caller's to judge.
	Checkpoint []byte
	// Progress, if not nil, is told how many of the events are written.
	Progress func(done, total int64)
}

// progressEvery is how many events lie between two words about the progress.
const progressEvery = 1000

// Export writes the whole log, as it stands at one moment, to w, and compares on the
// way what Import and `verify` compare: it refuses a log that is not what was
// appended, with the position. It signs nothing. It holds three connections, and
// memory for the largest event or body and some bytes for each body.
func Export(ctx context.Context, log *eventlog.Log, w io.Writer, o ExportOptions) (Summary, error) {
	var s Summary
	x := &exporter{w: bufio.NewWriterSize(w, 1<<16), sum: sha256.New()}
	m, err := log.Moment(ctx)
	if err == nil {
		defer m.Close(ctx)
		err = x.all(ctx, m, o, &s)
	}
	if err == nil {
		err = x.w.Flush()
	}
	if err != nil {
		return Summary{}, fmt.Errorf("export the log: %w", err)
	}
	return s, nil
}

type exporter struct {
	w    *bufio.Writer
	sum  hash.Hash
	owed *owed // nil without bodies
	line []byte
}

// put writes a line, which is v's.
func (x *exporter) put(v any) error {
	line, err := marshal(v)
	if err != nil {
		return err
	}
	return x.putLine(line)
}

func (x *exporter) putLine(line []byte) error {
	line = append(line, '\n')
	x.sum.Write(line)
	_, err := x.w.Write(line)
	return err
}

func (x *exporter) all(ctx context.Context, m *eventlog.Moment, o ExportOptions, s *Summary) error {
	var head int64
	var now time.Time
	err := m.Tx().QueryRow(ctx, `select position, transaction_timestamp(), array(select distinct instance collate "C" from public.events order by 1),
			coalesce((select position from public.bodies_left_out), 0) from public.log_head`).
		Scan(&head, &now, &s.Instances, &s.LeftOut)
	if err != nil {
		return fmt.Errorf("read the head: %w", err)
	}
	var kept checkpoint.Checkpoint
	if o.Checkpoint != nil {
		if kept, err = checkpoint.Unverified(o.Checkpoint); err != nil {
			return err
		}
		s.Checkpoint, s.Signed = string(o.Checkpoint), kept.N
	}
	h := header{Format: Format, Version: Version, Instances: s.Instances, Created: now.UTC(), Bodies: o.Bodies, Checkpoint: s.Checkpoint}
	if o.Bodies {
		h.BodiesAfter, x.owed = s.LeftOut, newOwed(s.LeftOut)
	} else {
		s.LeftOut = head
	}
	if err := x.put(h); err != nil {
		return err
	}
	tree, err := m.Events(ctx, kept.Tree, func(e *eventlog.Event) error { return x.event(e, o, head, s) })
	if err != nil {
		return err
	}
	if o.Bodies {
		if err := x.bodies(ctx, m.Tx(), s); err != nil {
			return err
		}
	}
	s.Events, s.Root = tree.N, tree.Hash
	return x.put(trailer{
		End: true, Events: s.Events, Bodies: s.Bodies, TreeSize: s.Events, Root: s.Root[:], SHA256: hex.EncodeToString(x.sum.Sum(nil)),
	})
}

func (x *exporter) event(e *eventlog.Event, o ExportOptions, head int64, s *Summary) (err error) {
	if x.owed != nil {
		if err := x.owed.event(e); err != nil {
			return &BodyError{err}
		}
	}
	if x.line, err = appendEvent(x.line[:0], e); err != nil {
		return err
	}
	if s.First.IsZero() {
		s.First = e.RecordedAt
	}
	s.Last = e.RecordedAt
	if o.Progress != nil && e.Position%progressEvery == 0 {
		o.Progress(e.Position, head)
	}
	return x.putLine(x.line)
}

func (x *exporter) bodies(ctx context.Context, tx pgx.Tx, s *Summary) error {
	rows, err := tx.Query(ctx, `select digest, content_type, salt, body from public.payloads order by digest collate "C"`)
	if err != nil {
		return fmt.Errorf("read bodies: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var b bodyLine
		if err := rows.Scan(&b.Digest, &b.ContentType, &b.Salt, &b.Body); err != nil {
			return fmt.Errorf("read body: %w", err)
		}
		if err := x.owed.body(b.payload()); err != nil {
			return &BodyError{err}
		}
		if err := x.put(b); err != nil {
			return err
		}
		s.Bodies++
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read bodies: %w", err)
	}
	if err := x.owed.rest(); err != nil {
		return &BodyError{err}
	}
	return nil
}
