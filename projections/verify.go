package projections

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// maxDifferences bounds what Verify lists of each table.
const maxDifferences = 1000

// Difference is a row of the read models that is not what the log gives.
type Difference struct {
	// Table is deployments, deliveries or attempts.
	Table string
	// Key names the row, as in "prod/web".
	Key string
	// Text says what differs.
	Text string
}

// String is the difference in one line.
func (d Difference) String() string { return fmt.Sprintf("%s %s: %s", d.Table, d.Key, d.Text) }

// Audit is what a fresh fold of the log says.
type Audit struct {
	// Checkpoint is the position at which the read models were compared with
	// the fold, Head the position up to which the log was folded.
	Checkpoint, Head int64
	Differences      []Difference
	// NotBuilt is set where there are no read models of this version to compare;
	// the rest is still told.
	NotBuilt *NotBuiltError
	// Accounting is by instance, up to Head.
	Accounting map[string]Accounting
}

// Verify compares the read models with a fresh fold of the log up to their
// checkpoint; at most 1000 differences a table.
func (p *Projector) Verify(ctx context.Context) ([]Difference, error) {
	audit, err := p.Audit(ctx, nil)
	if err != nil {
		return nil, err
	}
	if audit.NotBuilt != nil {
		return nil, fmt.Errorf("verify projections: %w", audit.NotBuilt)
	}
	return audit.Differences, nil
}

// errDiscard rolls back the fresh tables of an audit.
var errDiscard = errors.New("discard the fresh tables")

// Audit folds the whole log, in bounded memory, compares the read models
// with it and accounts for every delivery. It changes nothing; live update waits
// for it only from the moment at which the fold has caught up with it.
func (p *Projector) Audit(ctx context.Context, progress func(done, total int64)) (Audit, error) {
	audit := Audit{Accounting: make(map[string]Accounting)}
	from, ok, err := p.checkpoint(ctx)
	if err != nil {
		return audit, err
	}
	if !ok {
		audit.NotBuilt, from = &NotBuiltError{Version: p.version}, everything
	}
	err = pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock($1)", rebuildLock); err != nil {
			return fmt.Errorf("wait for a rebuild: %w", err)
		}
		b, err := p.begin(ctx, tx, from, progress)
		if err != nil {
			return err
		}
		if err := b.audit(ctx, p, &audit); err != nil {
			return err
		}
		return errDiscard
	})
	if !errors.Is(err, errDiscard) {
		return audit, fmt.Errorf("verify projections: %w", err)
	}
	return audit, nil
}

// audit compares at the live checkpoint, which it locks, and then folds the rest.
func (b *builder) audit(ctx context.Context, p *Projector, audit *Audit) error {
	if audit.NotBuilt == nil {
		if err := b.compare(ctx, p, audit); err != nil {
			return err
		}
	}
	// The rest of the log, since accounts are settled at the end of a group only.
	if err := b.build(ctx, p.log, everything, nil); err != nil {
		return err
	}
	audit.Head = b.state.position
	for instance := range b.state.totals {
		audit.Accounting[instance] = b.state.Accounting(instance)
	}
	return nil
}

// compare compares the read models with the fold at their checkpoint.
func (b *builder) compare(ctx context.Context, p *Projector, audit *Audit) error {
	at, err := p.lockCheckpoint(ctx, b.tx)
	if err != nil {
		return err
	}
	if err := b.build(ctx, p.log, at, nil); err != nil {
		return err
	}
	if b.state.position != at {
		return &AheadError{Checkpoint: at, Head: b.state.position}
	}
	audit.Checkpoint = at
	for _, t := range tables() {
		if err := t.compare(ctx, b.tx, p.live(), b.fresh, audit); err != nil {
			return err
		}
	}
	return nil
}

// AheadError says that the read models claim more events than the log has.
type AheadError struct{ Checkpoint, Head int64 }

func (e *AheadError) Error() string {
	return fmt.Sprintf("the checkpoint of the read models is %d, but the log ends at %d; run durhack-deployer projections rebuild", e.Checkpoint, e.Head)
}

// compare adds the differences between the live table and the fresh one.
func (t table) compare(ctx context.Context, tx pgx.Tx, live, fresh place, audit *Audit) error {
	join := make([]string, len(t.key))
	for i, k := range t.key {
		join[i] = fmt.Sprintf("l.%[1]s = f.%[1]s", k)
	}
	first := t.key[0]
	q := fmt.Sprintf(`select coalesce(case when l.%[1]s is not null then row_to_json(l) end, 'null'),
			coalesce(case when f.%[1]s is not null then row_to_json(f) end, 'null')
		from %[2]s l full join %[3]s f on %[4]s
		where (l.%[5]s) is distinct from (f.%[6]s)
		order by coalesce(l.%[1]s, f.%[1]s), coalesce(l.%[7]s, f.%[7]s) limit %[8]d`,
		first, t.in(live), t.in(fresh), strings.Join(join, " and "),
		strings.Join(t.columns, ", l."), strings.Join(t.columns, ", f."), t.key[1], maxDifferences)
	found, err := tx.Query(ctx, q)
	if err != nil {
		return fmt.Errorf("compare %s: %w", t.name, err)
	}
	defer found.Close()
	for found.Next() {
		v := found.RawValues()
		d, err := t.difference(v[0], v[1])
		if err != nil {
			return fmt.Errorf("compare %s: %w", t.name, err)
		}
		audit.Differences = append(audit.Differences, d)
	}
	if err := found.Err(); err != nil {
		return fmt.Errorf("compare %s: %w", t.name, err)
	}
	return nil
}

// difference puts two rows, of which one may be null, into words.
func (t table) difference(live, fresh []byte) (Difference, error) {
	var l, f map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(live, &l), json.Unmarshal(fresh, &f)); err != nil {
		return Difference{}, err
	}
	d := Difference{Table: t.name}
	row := l
	if l == nil {
		row = f
	}
	var key []string
	for _, k := range t.key {
		key = append(key, strings.Trim(string(row[k]), `"`))
	}
	d.Key = strings.Join(key, "/")
	switch {
	case l == nil:
		d.Text = "the row is missing"
	case f == nil:
		d.Text = "the log gives no such row"
	default:
		var texts []string
		for _, c := range t.columns {
			if !bytes.Equal(l[c], f[c]) {
				texts = append(texts, fmt.Sprintf("%s is %s, the log gives %s", c, l[c], f[c]))
			}
		}
		slices.Sort(texts)
		d.Text = strings.Join(texts, "; ")
	}
	return d, nil
}
