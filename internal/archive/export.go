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
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

// ExportOptions say what goes into an archive.
type ExportOptions struct {
	// Bodies includes the stored bodies. Without them the deliveries cannot be replayed.
	Bodies bool
	// Checkpoint returns a signed checkpoint of the tree of that size and root, or
	// "" where there is no signer; nil is the same as "".
	Checkpoint func(ctx context.Context, size int64, root [32]byte) (string, error)
	// Progress, if not nil, is told how many of the events are written.
	Progress func(done, total int64)
}

// progressEvery is how many events lie between two words about the progress.
const progressEvery = 1000

// Export writes the whole log, as it stands at one moment, to w. Its memory is
// that of the largest event or body.
func Export(ctx context.Context, pool *pgxpool.Pool, w io.Writer, o ExportOptions) (Summary, error) {
	var s Summary
	err := pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		x := &exporter{w: bufio.NewWriterSize(w, 1<<16), sum: sha256.New()}
		if err := x.all(ctx, tx, o, &s); err != nil {
			return err
		}
		return x.w.Flush()
	})
	if err != nil {
		return Summary{}, fmt.Errorf("export the log: %w", err)
	}
	return s, nil
}

type exporter struct {
	w    *bufio.Writer
	sum  hash.Hash
	tree tree
	line []byte
}

func (x *exporter) put(line []byte) error {
	line = append(line, '\n')
	x.sum.Write(line)
	_, err := x.w.Write(line)
	return err
}

func (x *exporter) all(ctx context.Context, tx pgx.Tx, o ExportOptions, s *Summary) error {
	var head int64
	var now time.Time
	err := tx.QueryRow(ctx, `select position, transaction_timestamp(), array(select distinct instance from public.events order by 1),
			coalesce((select position from public.bodies_left_out), 0) from public.log_head`).
		Scan(&head, &now, &s.Instances, &s.LeftOut)
	if err != nil {
		return fmt.Errorf("read the head: %w", err)
	}
	h := header{Format: Format, Version: Version, Instances: notNil(s.Instances), Created: now.UTC(), Bodies: o.Bodies}
	if o.Bodies {
		h.BodiesAfter = s.LeftOut
	} else {
		s.LeftOut = head
	}
	line, err := marshal(h)
	if err != nil {
		return err
	}
	if err := x.put(line); err != nil {
		return err
	}
	if err := x.events(ctx, tx, o, head, s); err != nil {
		return err
	}
	if o.Bodies {
		if err := x.bodies(ctx, tx, s); err != nil {
			return err
		}
	}
	s.Events, s.Root = x.tree.size, x.tree.root()
	if o.Checkpoint != nil {
		if s.Checkpoint, err = o.Checkpoint(ctx, s.Events, s.Root); err != nil {
			return fmt.Errorf("sign a checkpoint: %w", err)
		}
	}
	line, err = marshal(trailer{
		End: true, Events: s.Events, Bodies: s.Bodies, TreeSize: s.Events, Root: s.Root[:],
		SHA256: hex.EncodeToString(x.sum.Sum(nil)), Checkpoint: s.Checkpoint,
	})
	if err != nil {
		return err
	}
	return x.put(line)
}

func (x *exporter) events(ctx context.Context, tx pgx.Tx, o ExportOptions, head int64, s *Summary) error {
	rows, err := tx.Query(ctx, `select position, id, instance, delivery_id, type, deployment, attempt, actor, recorded_at, data
		from public.events order by position`)
	if err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var e eventlog.Event
		err := rows.Scan(&e.Position, &e.ID, &e.Instance, &e.DeliveryID, &e.Type, &e.Deployment, &e.Attempt, &e.Actor, &e.RecordedAt, (*[]byte)(&e.Data))
		if err != nil {
			return fmt.Errorf("read event: %w", err)
		}
		if want := x.tree.size + 1; e.Position != want {
			return &eventlog.HoleError{Want: want, Got: e.Position, Head: head}
		}
		e.RecordedAt = e.RecordedAt.UTC()
		x.tree.add(&e)
		if x.line, err = appendEvent(x.line[:0], &e); err != nil {
			return err
		}
		if err := x.put(x.line); err != nil {
			return err
		}
		if s.First.IsZero() {
			s.First = e.RecordedAt
		}
		s.Last = e.RecordedAt
		if o.Progress != nil && x.tree.size%progressEvery == 0 {
			o.Progress(x.tree.size, head)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	if x.tree.size != head {
		return &eventlog.HoleError{Want: x.tree.size + 1, Head: head}
	}
	return nil
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
		line, err := marshal(b)
		if err != nil {
			return fmt.Errorf("encode body %s: %w", b.Digest, err)
		}
		if err := x.put(line); err != nil {
			return err
		}
		s.Bodies++
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read bodies: %w", err)
	}
	return nil
}

func notNil(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}
