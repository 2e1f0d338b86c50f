package eventlog

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"
)

const (
	sqlBodies   = `select digest, content_type, salt, body from public.payloads where digest = any($1)`
	sqlSmall    = sqlBodies + ` and octet_length(body) <= $2`
	sqlRedacted = `select ` + eventColumns + ` from public.events where type = 'redacted' order by position`
	sqlStrays   = `select p.digest from public.payloads p
		left join (select public.event_log_body(e.data) as digest
		           from public.events e where e.type in ('received', 'redelivered')) named on named.digest = p.digest
		where named.digest is null order by p.digest`
	sqlLeftOut = `select count(*), coalesce(max(position), 0) from public.bodies_left_out`
	// bodyBatch is how many bodies are asked for at once.
	bodyBatch = 200
)

// NamedBody is what an event says of the body that it brought.
type NamedBody struct {
	Digest      string
	Size        int64
	ContentType string
}

// BodyOf returns the body that an event names; false where it names none.
func BodyOf(e *Event) (NamedBody, bool) {
	if !namesBody(e) {
		return NamedBody{}, false
	}
	n := namedIn(e.Data)
	return n, n.Digest != ""
}

// Check says in what a stored body is not the one that is named.
func (n NamedBody) Check(p *Payload) error {
	if err := p.check(); err != nil {
		return err
	}
	switch {
	case p.Digest != n.Digest:
		return fmt.Errorf("its body has the digest %q, but the event names %q", p.Digest, n.Digest)
	case int64(len(p.Body)) != n.Size:
		return fmt.Errorf("its body has %d bytes, but the event names %d", len(p.Body), n.Size)
	case p.ContentType != cleanLikeJSON(n.ContentType):
		return fmt.Errorf("the content type of its body is %q, but the event names %q", p.ContentType, n.ContentType)
	}
	return nil
}

// Bodies calls fn with those of the stored bodies that are no longer than most bytes, in any order.
func (l *Log) Bodies(ctx context.Context, digests []string, most int64, fn func(Payload)) error {
	if len(digests) == 0 {
		return nil
	}
	rows, err := l.pool.Query(ctx, sqlSmall, digests, most)
	if err != nil {
		return fmt.Errorf("read bodies: %w", err)
	}
	var p Payload
	if _, err = pgx.ForEachRow(rows, []any{&p.Digest, &p.ContentType, &p.Salt, &p.Body}, func() error { fn(p); return nil }); err != nil {
		return fmt.Errorf("read bodies: %w", err)
	}
	return nil
}

// bodyRef is an event that names a body.
type bodyRef struct {
	NamedBody
	position             int64
	instance, deliveryID string
}

// bodyCheck compares the stored bodies with the digests in the events. The walk
// over the events hands it what they name, in batches.
type bodyCheck struct {
	q       pgx.Tx
	found   *faults
	batches chan []bodyRef
	batch   []bodyRef
	// redacted are the redactions by the digest that they name.
	redacted       map[string]Event
	compared, gone int64
	// leftOut were never there, because the import brought none up to leftOutTo.
	leftOut, leftOutTo int64
}

func newBodyCheck(q pgx.Tx, found *faults) *bodyCheck {
	return &bodyCheck{q: q, found: found, batches: make(chan []bodyRef, 4), redacted: make(map[string]Event)}
}

// see notes the body that an event names, if it does.
func (c *bodyCheck) see(ctx context.Context, e *Event) error {
	named, ok := BodyOf(e)
	if !ok {
		return nil
	}
	c.batch = append(c.batch, bodyRef{named, e.Position, e.Instance, e.DeliveryID})
	if len(c.batch) == bodyBatch {
		return c.send(ctx)
	}
	return nil
}

func namesBody(e *Event) bool { return e.Type == TypeReceived || e.Type == TypeRedelivered }

func (c *bodyCheck) send(ctx context.Context) error {
	select {
	case c.batches <- c.batch:
		c.batch = nil
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close says that all events were seen.
func (c *bodyCheck) close(ctx context.Context) error {
	err := c.send(ctx)
	close(c.batches)
	return err
}

// namedIn reads the keys of received and redelivered that are about the body.
func namedIn(data []byte) NamedBody {
	digest, ok1 := member(data, `"payload_digest":"`, `"`)
	size, ok2 := member(data, `"payload_size":`, ",")
	contentType, ok3 := member(data, `"content_type":"`, `"`)
	if n, err := strconv.ParseInt(size, 10, 64); ok1 && ok2 && ok3 && err == nil {
		return NamedBody{digest, n, contentType}
	}
	// Rare: an escape in the text, or a spelling that this package does not write.
	var d struct {
		PayloadDigest string `json:"payload_digest"`
		PayloadSize   int64  `json:"payload_size"`
		ContentType   string `json:"content_type"`
	}
	if json.Unmarshal(data, &d) != nil {
		return NamedBody{}
	}
	return NamedBody{d.PayloadDigest, d.PayloadSize, d.ContentType}
}

// member finds a value by its key, as encoding/json writes them, up to what ends it.
// The key cannot be found inside of a text, where its quotes would be escaped. One
// that comes twice is not found: the last one is what counts.
func member(data []byte, key, end string) (string, bool) {
	_, rest, found := bytes.Cut(data, []byte(key))
	if !found || bytes.Contains(rest, []byte(key)) {
		return "", false
	}
	i := bytes.IndexAny(rest, end+`\`)
	if i < 0 || rest[i] == '\\' {
		return "", false
	}
	return string(rest[:i]), true
}

func (c *bodyCheck) run(ctx context.Context) error {
	if err := c.readLeftOut(ctx); err != nil {
		return err
	}
	if err := c.readRedacted(ctx); err != nil {
		return err
	}
	for batch := range c.batches {
		if err := c.compare(ctx, batch); err != nil {
			return err
		}
	}
	var stored int64
	if err := c.q.QueryRow(ctx, "select count(*) from public.payloads").Scan(&stored); err != nil {
		return fmt.Errorf("count bodies: %w", err)
	}
	if stored == c.compared {
		return nil
	}
	rows, err := c.q.Query(ctx, sqlStrays)
	if err != nil {
		return fmt.Errorf("look for bodies that no event names: %w", err)
	}
	var digest string
	if _, err = pgx.ForEachRow(rows, []any{&digest}, func() error {
		c.found.addf(0, "body %q is stored, but no event names it", digest)
		return nil
	}); err != nil {
		return fmt.Errorf("look for bodies that no event names: %w", err)
	}
	return nil
}

// readLeftOut reads what an import recorded.
func (c *bodyCheck) readLeftOut(ctx context.Context) error {
	var rows int64
	if err := c.q.QueryRow(ctx, sqlLeftOut).Scan(&rows, &c.leftOutTo); err != nil {
		return fmt.Errorf("read which bodies were left out by an import: %w", err)
	}
	if rows > 1 {
		c.found.addf(0, "%d imports are said to have left out bodies, but there can be only one", rows)
	}
	return nil
}

func (c *bodyCheck) readRedacted(ctx context.Context) error {
	rows, err := c.q.Query(ctx, sqlRedacted)
	if err != nil {
		return fmt.Errorf("read redactions: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		e, err := scanEvent(rows)
		if err != nil {
			return err
		}
		data, err := e.Decode()
		r, ok := data.(Redacted)
		if err != nil || !ok {
			c.found.addf(e.Position, "the redaction cannot be read: %v", err)
			continue
		}
		for _, digest := range r.PayloadDigests {
			c.redacted[digest] = e
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read redactions: %w", err)
	}
	return nil
}

func (c *bodyCheck) compare(ctx context.Context, batch []bodyRef) error {
	if len(batch) == 0 {
		return nil
	}
	named := make(map[string][]bodyRef, len(batch))
	for _, ref := range batch {
		named[ref.Digest] = append(named[ref.Digest], ref)
	}
	rows, err := c.q.Query(ctx, sqlBodies, pgx.QueryExecModeDescribeExec, pgx.QueryResultFormats{pgx.BinaryFormatCode}, slices.Collect(maps.Keys(named)))
	if err != nil {
		return fmt.Errorf("read bodies: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		v := rows.RawValues()
		p := Payload{Digest: string(v[0]), ContentType: string(v[1]), Salt: v[2], Body: v[3]}
		for _, ref := range named[p.Digest] {
			c.judge(ref, &p)
		}
		delete(named, p.Digest)
		c.compared++
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read bodies: %w", err)
	}
	for _, refs := range named {
		for _, ref := range refs {
			c.judge(ref, nil)
		}
	}
	return nil
}

// judge looks at a body that is named, nil where it is not there.
func (c *bodyCheck) judge(ref bodyRef, body *Payload) {
	redaction, redacted := c.redacted[ref.Digest]
	redacted = redacted && redaction.Instance == ref.instance && redaction.DeliveryID == ref.deliveryID
	switch {
	case body == nil && redacted:
		c.gone++
	case body == nil && ref.position <= c.leftOutTo:
		c.leftOut++
	case body == nil:
		c.found.addf(ref.position, "its body is missing, and was not redacted")
	case ref.position <= c.leftOutTo:
		c.found.addf(ref.position, "its body is stored, though the import is said to have left out those up to position %d", c.leftOutTo)
	case redacted:
		c.found.addf(ref.position, "its body is stored, though it was redacted at position %d", redaction.Position)
	default:
		if err := ref.Check(body); err != nil {
			c.found.addf(ref.position, "%v", err)
		}
	}
}
