package eventlog

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// verify is Verify, on a log that must be readable.
func verify(t testing.TB, l *Log, o VerifyOptions) Verified {
	t.Helper()
	v, err := l.Verify(testContext(t), o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// sound fails the test where the log has a fault. Events of many tests name
// bodies that they do not store; bodies says that these count.
func sound(t testing.TB, l *Log, bodies bool) Verified {
	t.Helper()
	v := verify(t, l, VerifyOptions{TreeOnly: !bodies})
	for _, f := range v.Faults {
		t.Errorf("verify: %s", f)
	}
	return v
}

// Every stored hash and every root is what the reference implementation says.
func TestEdgeIsTheTreeOfTlog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(0, 300).Draw(t, "size")
		var e Edge
		var stored []tlog.Hash
		rows := make(map[int64][]byte)
		reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
			var out []tlog.Hash
			for _, i := range indexes {
				out = append(out, stored[i])
			}
			return out, nil
		})
		for i := range n {
			leaf := tlog.RecordHash(fmt.Append(nil, i))
			want, err := tlog.StoredHashesForRecordHash(i, leaf, reader)
			if err != nil {
				t.Fatal(err)
			}
			stored = append(stored, want...)
			row := e.Add(leaf, nil)
			rows[i+1] = row
			if len(row) != completed(i+1)*tlog.HashSize {
				t.Fatalf("row %d has %d bytes, completed says %d hashes", i+1, len(row), completed(i+1))
			}
			for k, h := range want {
				if !bytes.Equal(row[k*tlog.HashSize:][:tlog.HashSize], h[:]) {
					t.Fatalf("hash %d of record %d differs", k, i)
				}
			}
		}
		want, err := tlog.TreeHash(n, reader)
		if err != nil || e.Root() != want {
			t.Fatalf("root %v, want %v, %v", e.Root(), want, err)
		}
		for i, p := range edgePlaces(n) {
			if !bytes.Equal(rows[p.position][p.level*tlog.HashSize:][:tlog.HashSize], e.nodes[i][:]) {
				t.Fatalf("the edge of %d does not have node %d at %+v", n, i, p)
			}
		}
	})
}

func genEvent(t *rapid.T) Event {
	e := Event{
		Position: rapid.Int64Min(1).Draw(t, "position"), ID: rapid.String().Draw(t, "id"), Instance: rapid.String().Draw(t, "instance"),
		DeliveryID: rapid.String().Draw(t, "delivery"), Type: Type(rapid.String().Draw(t, "type")), Attempt: int(rapid.Int32().Draw(t, "attempt")),
		Actor: rapid.String().Draw(t, "actor"), RecordedAt: time.UnixMicro(rapid.Int64Range(-1<<50, 1<<55).Draw(t, "at")).UTC(),
		Data: []byte(rapid.String().Draw(t, "data")),
	}
	if slug := rapid.String().Draw(t, "slug"); slug != "" {
		e.Deployment = &slug
	}
	return e
}

// A leaf is its event: it can be read back, and no other event has it.
func TestLeafIsItsEvent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := genEvent(t)
		leaf := AppendLeaf(nil, &e)
		back, err := ParseLeaf(leaf)
		if err != nil || !sameEvent(e, back) {
			t.Fatalf("%+v came back as %+v, %v", e, back, err)
		}
		if LeafHash(&e) != tlog.RecordHash(leaf) {
			t.Fatal("LeafHash is not the record hash of the leaf")
		}
		other := genEvent(t)
		if bytes.Equal(AppendLeaf(nil, &other), leaf) != sameEvent(e, other) {
			t.Fatalf("%+v and %+v: leaves and events are not equal together", e, other)
		}
	})
}

func FuzzParseLeaf(f *testing.F) {
	e := Event{Position: 1, ID: "01ARZ3NDEKTSV4RRFFQ69G5FAV", Instance: "prod", DeliveryID: "d", Type: TypeVoided, Actor: "ann", RecordedAt: someTime, Data: []byte(`{"v":1}`)}
	f.Add(AppendLeaf(nil, &e))
	f.Add([]byte("0:,0:,"))
	f.Add([]byte("25:durhack-deployer/event/v1,02:01,"))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseLeaf(b)
		if err == nil && !bytes.Equal(AppendLeaf(nil, &e), b) {
			t.Fatalf("%q was read as %+v, whose leaf is another", b, e)
		}
	})
}

// Two processes that append in turn never have the edge in memory; and what the
// database computes for a log from before the tree is the same to the byte.
func TestAppendersInTurnBuildOneTree(t *testing.T) {
	pool := migrate(t, pgtest.DSN(t))
	logs := []*Log{openLog(t, pool), openLog(t, pool), openLog(t, pool)}
	n := 0
	for range 60 {
		l := logs[rand.IntN(len(logs))]
		var g []Group
		for range 1 + rand.IntN(4) {
			n++
			g = append(g, group(received(fmt.Sprint("d", n)), started(fmt.Sprint("d", n), "web", 1)))
		}
		results, err := l.AppendAll(testContext(t), g)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range results {
			if r.Err != nil {
				t.Fatal(r.Err)
			}
		}
	}
	// And all at once.
	var wg sync.WaitGroup
	for i, l := range logs {
		wg.Go(func() {
			for n := range 20 {
				mustAppend(t, l, group(received(fmt.Sprintf("at-once-%d-%d", i, n))))
			}
		})
	}
	wg.Wait()
	v := sound(t, logs[0], false)
	if head, err := logs[0].Head(testContext(t)); err != nil || v.Tree.N != head {
		t.Fatalf("verified %d of %d events, %v", v.Tree.N, head, err)
	}
	admin := superuser(t, pool)
	hashes := func() (all string) {
		t.Helper()
		const q = `select string_agg(encode(hashes, 'hex'), ' ' order by position) from event_hashes`
		if err := admin.QueryRow(testContext(t), q).Scan(&all); err != nil {
			t.Fatal(err)
		}
		return all
	}
	by := hashes()
	if _, err := admin.Exec(testContext(t), "alter table event_hashes disable trigger all; delete from event_hashes where position > 37"); err != nil {
		t.Fatal(err)
	}
	rehash(t, admin)
	if filled := hashes(); by != filled {
		t.Error("the database fills in other hashes than were appended")
	}
}

// The edge in memory is worth nothing once the log was put back to an older
// state and has grown to the same length again.
func TestEdgeOfALogThatWasRestored(t *testing.T) {
	pool := migrate(t, pgtest.DSN(t))
	ours, others := openLog(t, pool), openLog(t, pool)
	mustAppend(t, ours, group(received("a"), started("a", "web", 1)))
	mustAppend(t, ours, group(deployed("a", "web", 1)))
	admin := superuser(t, pool)
	for _, sql := range []string{
		"alter table events disable trigger all", "alter table event_hashes disable trigger all", "alter table log_head disable trigger all",
		"delete from events where position = 3", "delete from event_hashes where position = 3",
		"update log_head set position = 2, last_id = (select id from events where position = 2)",
	} {
		if _, err := admin.Exec(testContext(t), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	mustAppend(t, others, group(received("b")))
	mustAppend(t, ours, group(received("c")))
	sound(t, ours, false)
}

// Where the hashes to build on are gone, nothing is appended, and the error says so at once.
func TestAppendWithoutHashesIsRefused(t *testing.T) {
	pool := migrate(t, pgtest.DSN(t))
	mustAppend(t, openLog(t, pool), group(received("a")))
	admin := superuser(t, pool)
	if _, err := admin.Exec(testContext(t), "alter table event_hashes disable trigger all; delete from event_hashes"); err != nil {
		t.Fatal(err)
	}
	l := openLog(t, pool)
	var broken *TreeError
	if _, err := l.Append(testContext(t), group(received("b"))); !errors.As(err, &broken) || broken.Position != 1 {
		t.Fatalf("append: %v, want a TreeError at position 1", err)
	}
	rehash(t, admin)
	mustAppend(t, l, group(received("b")))
	sound(t, l, false)
}

func TestGrowAndProve(t *testing.T) {
	ctx := testContext(t)
	pool := migrate(t, pgtest.DSN(t))
	l := openLog(t, pool)
	empty, err := l.Grow(ctx, tlog.Tree{})
	if err != nil || empty.N != 0 || empty.Hash.String() != "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" {
		t.Fatalf("the empty tree is %+v, %v", empty, err)
	}
	trees := []tlog.Tree{empty}
	for n := range 40 {
		mustAppend(t, l, group(received(fmt.Sprint("d", n))))
		if n%7 == 0 || n == 39 {
			now, err := l.Grow(ctx, trees[len(trees)-1])
			if err != nil {
				t.Fatal(err)
			}
			trees = append(trees, now)
		}
	}
	var sizes []int64
	for _, tree := range trees {
		sizes = append(sizes, tree.N)
	}
	v := verify(t, l, VerifyOptions{TreeOnly: true, Sizes: append(sizes, 1000)})
	if len(v.Roots) != len(sizes) || v.Tree != trees[len(trees)-1] {
		t.Errorf("verified %d roots of %d, tree %+v", len(v.Roots), len(sizes), v.Tree)
	}
	for _, tree := range trees {
		if v.Roots[tree.N] != tree.Hash {
			t.Errorf("root of %d differs", tree.N)
		}
		for position := int64(-1); position <= tree.N+1; position++ {
			leaf, proof, err := l.Prove(ctx, tree, position)
			if position < 1 || position > tree.N {
				if !errors.Is(err, ErrNoPosition) {
					t.Errorf("proof of %d in %d: %v", position, tree.N, err)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := tlog.CheckRecord(proof, tree.N, tree.Hash, position-1, tlog.RecordHash(leaf)); err != nil {
				t.Errorf("proof of %d in %d: %v", position, tree.N, err)
			}
		}
		again, err := l.Grow(ctx, tree)
		if err != nil || again != v.Tree {
			t.Errorf("grown from %d: %+v, %v", tree.N, again, err)
		}
		if tree.N == 0 {
			continue
		}
		tree.Hash[3] ^= 1
		var broken *TreeError
		if _, err := l.Grow(ctx, tree); !errors.As(err, &broken) {
			t.Errorf("grown from a tree of %d that never was: %v", tree.N, err)
		}
	}
	var broken *TreeError
	if _, err := l.Grow(ctx, tlog.Tree{N: 41, Hash: v.Tree.Hash}); !errors.As(err, &broken) {
		t.Errorf("grown from a larger tree: %v", err)
	}
	// A row since the old tree that was changed, and a stored hash.
	vandal := newVandal(t, pool)
	for what, sql := range map[string]string{
		"row":  "update events set actor = 'eve' where position = 38",
		"hash": "update event_hashes set hashes = set_byte(hashes, 5, 255 - get_byte(hashes, 5)) where position = 38",
		"gone": "delete from event_hashes where position = 38",
	} {
		t.Run(what, func(t *testing.T) {
			vandal.do(t, sql)
			defer vandal.undo(t)
			if _, err := l.Grow(ctx, trees[len(trees)-2]); !errors.As(err, &broken) || broken.Position != 38 {
				t.Errorf("grown over a changed %s: %v", what, err)
			}
		})
	}
	if _, err := l.Grow(ctx, empty); err != nil {
		t.Errorf("put back as it was: %v", err)
	}
}
