package eventlog

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"
)

// VerifyOptions say how to verify.
type VerifyOptions struct {
	// Sizes are those of older trees whose roots the caller has.
	Sizes []int64
	// Progress, if not nil, is called now and then with the number of events done.
	Progress func(done, total int64)
	// TreeOnly leaves the bodies alone.
	TreeOnly bool
}

// Verified is what Verify found.
type Verified struct {
	// Tree is what the events give, whatever hashes are stored.
	Tree tlog.Tree
	// Roots are those of the older trees that were asked for, as far as the log
	// goes, as the events give them.
	Roots map[int64]tlog.Hash
	// Bodies were read and compared, Redacted ones were not there, as they should be.
	Bodies, Redacted int64
	// LeftOut bodies are not there because the log was imported without them, up to
	// the position LeftOutTo (0 where it was not): that is what the import recorded.
	LeftOut, LeftOutTo int64
	// Faults are in the order of positions, at most 1000 of them, and More is
	// how many there are beyond these. There is none in a log that only this
	// package wrote.
	Faults []Fault
	More   int64
}

// Moment is the log as it stands at one moment.
type Moment struct{ txs [3]pgx.Tx }

// Moment returns the log as it stands now. It holds three connections of the pool
// until it is closed.
func (l *Log) Moment(ctx context.Context) (_ *Moment, err error) {
	m := &Moment{}
	if n := l.pool.Config().MaxConns; n < int32(len(m.txs)) {
		return nil, fmt.Errorf("%d connections are needed, but the pool may have only %d: raise pool_max_conns", len(m.txs), n)
	}
	defer func() {
		if err != nil {
			m.Close(ctx)
		}
	}()
	snapshot := ""
	for i := range m.txs {
		if m.txs[i], err = l.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}); err != nil {
			return nil, err
		}
		if i == 0 {
			err = m.txs[i].QueryRow(ctx, "select pg_export_snapshot()").Scan(&snapshot)
		} else {
			_, err = m.txs[i].Exec(ctx, "set transaction snapshot '"+snapshot+"'")
		}
		if err != nil {
			return nil, fmt.Errorf("look at one moment: %w", err)
		}
	}
	return m, nil
}

// Close lets go of the connections.
func (m *Moment) Close(ctx context.Context) {
	for _, tx := range m.txs {
		if tx != nil {
			_ = tx.Rollback(context.WithoutCancel(ctx)) // it has written nothing
		}
	}
}

// Tx is for queries of the caller's own. It is free while Events runs.
func (m *Moment) Tx() pgx.Tx { return m.txs[2] }

// Events calls each with every event, in order, and returns the tree that they
// give. A row or a hash that is not what was appended, and a tree that the log does not
// contain (the zero Tree: none), are a *TreeError.
func (m *Moment) Events(ctx context.Context, old tlog.Tree, each func(*Event) error) (tlog.Tree, error) {
	var found faults
	head, _, counted, err := headOf(ctx, m.txs[0], &found)
	if err != nil {
		return tlog.Tree{}, err
	}
	if !counted || head < old.N {
		return tlog.Tree{}, &TreeError{head + 1, fmt.Sprintf("the log ends before it, but a checkpoint of %d events was signed", old.N)}
	}
	w := newTreeWalk(Edge{})
	return w.tree(ctx, m.txs[0], m.txs[1], math.MinInt64, math.MaxInt64, head, nil, func(e *Event) error {
		if w.edge.size == old.N && w.edge.Root() != old.Hash {
			return &TreeError{old.N, "the events up to here are not those of the checkpoint that was signed"}
		}
		return each(e)
	})
}

// Verify reads the whole log, as it stands at one moment, and recomputes all
// that can be: the tree from the events against every stored hash, the order,
// the head, and each body against the digest in its event. It holds three
// connections of the pool, and memory for a few events and one body.
//
// It finds what does not fit together. A log whose events, hashes and bodies
// were all made again does fit: only the root of an older tree, kept elsewhere,
// tells that (Sizes, Roots).
func (l *Log) Verify(ctx context.Context, o VerifyOptions) (v Verified, err error) {
	m, err := l.Moment(ctx)
	if err != nil {
		return v, fmt.Errorf("verify the log: %w", err)
	}
	defer m.Close(ctx)
	var found faults
	head, lastID, counted, err := headOf(ctx, m.txs[0], &found)
	if err != nil {
		return v, err
	}
	w := newTreeWalk(Edge{})
	w.fault = found.add
	w.sizes = slices.Compact(slices.Sorted(slices.Values(o.Sizes)))
	for len(w.sizes) > 0 && w.sizes[0] <= 0 {
		w.roots[w.sizes[0]], w.sizes = w.edge.Root(), w.sizes[1:]
	}
	each := func(*Event) error { return nil }
	g, gctx := errgroup.WithContext(ctx)
	var b *bodyCheck
	if !o.TreeOnly {
		b = newBodyCheck(m.txs[2], &found)
		each = func(e *Event) error { return b.see(gctx, e) }
		g.Go(func() error { return b.run(gctx) })
	}
	g.Go(func() error {
		err := w.walk(gctx, m.txs[0], m.txs[1], math.MinInt64, math.MaxInt64, namesBody, func(e *Event) error {
			if o.Progress != nil && w.edge.size%4096 == 0 {
				o.Progress(w.edge.size, head)
			}
			return each(e)
		})
		if b != nil {
			err = errors.Join(err, b.close(gctx))
		}
		return err
	})
	if err := g.Wait(); err != nil {
		return v, fmt.Errorf("verify the log: %w", err)
	}
	if o.Progress != nil {
		o.Progress(w.edge.size, max(head, w.edge.size))
	}
	switch {
	case !counted: // reported
	case head > w.edge.size:
		found.add(Fault{Position: w.edge.size + 1, Last: head, Text: "missing, because rows at the end were removed, or the head of the log, which goes so far, was changed"})
	case head < w.edge.size:
		found.add(Fault{Position: max(head, 0) + 1, Last: w.edge.size, Text: fmt.Sprintf("past the head of the log, which is at %d: rows were inserted at the end, or the head was changed", head)})
	case head > 0 && lastID != w.lastID:
		found.addf(head, "the head of the log names another last ID than the row has")
	}
	v.Tree, v.Roots = w.edge.Tree(), w.roots
	if b != nil {
		v.Bodies, v.Redacted, v.LeftOut, v.LeftOutTo = b.compared, b.gone, b.leftOut, b.leftOutTo
		if b.leftOutTo > w.edge.size {
			found.addf(0, "an import is said to have left out the bodies up to position %d, but the log ends at %d", b.leftOutTo, w.edge.size)
		}
	}
	v.Faults, v.More = found.sorted()
	return v, nil
}

// headOf reads where the log says that it ends; counted is false where that
// cannot be said.
func headOf(ctx context.Context, q querier, found *faults) (head int64, lastID string, counted bool, err error) {
	rows, err := q.Query(ctx, `select position, last_id from public.log_head`)
	if err != nil {
		return 0, "", false, fmt.Errorf("read the head of the log: %w", err)
	}
	n := 0
	if _, err := pgx.ForEachRow(rows, []any{&head, &lastID}, func() error { n++; return nil }); err != nil {
		return 0, "", false, fmt.Errorf("read the head of the log: %w", err)
	}
	if n != 1 {
		found.addf(0, "the head of the log has %d rows, where it should be 1", n)
	}
	return head, lastID, n == 1, nil
}
