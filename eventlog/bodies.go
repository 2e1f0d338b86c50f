package eventlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"

	"github.com/jackc/pgx/v5"
)

const (
	sqlBodies   = `select digest, content_type, salt, body from public.payloads where digest = any($1)`
	sqlRedacted = `select ` + eventColumns + ` from public.events where type = 'redacted' order by position`
	sqlStrays   = `select p.digest from public.payloads p
		left join (select substring(e.data::text from '"payload_digest":"([0-9a-f]{64})"') as digest
		           from public.events e where e.type in ('received', 'redelivered')) named on named.digest = p.digest
		where named.digest is null order by p.digest`
	sqlLeftOut = `select count(*), coalesce(max(position), 0) from public.bodies_left_out`
	// bodyBatch is how many bodies are asked for at once.
	bodyBatch = 200
)

// bodyRef is an event that names a body.
type bodyRef struct {
	position             int64
	digest, contentType  string
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
	sum                hash.Hash
}

func newBodyCheck(q pgx.Tx, found *faults) *bodyCheck {
	return &bodyCheck{q: q, found: found, batches: make(chan []bodyRef, 4), redacted: make(map[string]Event), sum: sha256.New()}
}

// see notes the body that an event names, if it does.
func (c *bodyCheck) see(ctx context.Context, e *Event) error {
	if !namesBody(e) {
		return nil
	}
	digest, contentType := bodyOf(e.Data)
	if digest == "" {
		return nil
	}
	c.batch = append(c.batch, bodyRef{e.Position, digest, contentType, e.Instance, e.DeliveryID})
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

// bodyOf reads the two keys of received and redelivered that are about the body.
func bodyOf(data []byte) (digest, contentType string) {
	digest, ok1 := member(data, `"payload_digest":"`)
	contentType, ok2 := member(data, `"content_type":"`)
	if ok1 && ok2 {
		return digest, contentType
	}
	// Rare: an escape in the text, or a spelling that this package does not write.
	var d struct {
		PayloadDigest string `json:"payload_digest"`
		ContentType   string `json:"content_type"`
	}
	if json.Unmarshal(data, &d) != nil {
		return "", ""
	}
	return d.PayloadDigest, d.ContentType
}

// member finds a text by its key, as encoding/json writes it. The key cannot be
// found inside of another text, where its quotes would be escaped.
func member(data []byte, key string) (string, bool) {
	_, rest, found := bytes.Cut(data, []byte(key))
	if !found {
		return "", false
	}
	end := bytes.IndexAny(rest, `"\`)
	if end < 0 || rest[end] != '"' {
		return "", false
	}
	return string(rest[:end]), true
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

// stored is what is kept of a body while its batch is compared.
type storedBody struct {
	digest, contentType string
}

func (c *bodyCheck) compare(ctx context.Context, batch []bodyRef) error {
	if len(batch) == 0 {
		return nil
	}
	digests := make([]string, len(batch))
	for i, ref := range batch {
		digests[i] = ref.digest
	}
	there := make(map[string]storedBody, len(batch))
	rows, err := c.q.Query(ctx, sqlBodies, pgx.QueryExecModeDescribeExec, pgx.QueryResultFormats{pgx.BinaryFormatCode}, digests)
	if err != nil {
		return fmt.Errorf("read bodies: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		v := rows.RawValues()
		c.sum.Reset()
		c.sum.Write(v[2])
		c.sum.Write(v[3])
		there[string(v[0])] = storedBody{hex.EncodeToString(c.sum.Sum(nil)), string(v[1])}
		c.compared++
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read bodies: %w", err)
	}
	for _, ref := range batch {
		c.judge(ref, there)
	}
	return nil
}

func (c *bodyCheck) judge(ref bodyRef, there map[string]storedBody) {
	redaction, redacted := c.redacted[ref.digest]
	redacted = redacted && redaction.Instance == ref.instance && redaction.DeliveryID == ref.deliveryID
	body, ok := there[ref.digest]
	switch {
	case !ok && redacted:
		c.gone++
	case !ok && ref.position <= c.leftOutTo:
		c.leftOut++
	case !ok:
		c.found.addf(ref.position, "its body is missing, and was not redacted")
	case ref.position <= c.leftOutTo:
		c.found.addf(ref.position, "its body is stored, though the import is said to have left out those up to position %d", c.leftOutTo)
	case redacted:
		c.found.addf(ref.position, "its body is stored, though it was redacted at position %d", redaction.Position)
	case body.digest != ref.digest:
		c.found.addf(ref.position, "its body or its salt was changed: they do not give the digest that the event names")
	case body.contentType != clean(ref.contentType):
		c.found.addf(ref.position, "the content type of its body is %q, but the event names %q", body.contentType, ref.contentType)
	}
}
