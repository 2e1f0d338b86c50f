package webhook

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"
)

func TestMemoryIsBounded(t *testing.T) {
	f := start(t, Limits{}, func(o *Options) { o.MemoryWait = 50 * time.Millisecond })
	large := make([]byte, smallBody+2*chunkSize)
	small := make([]byte, smallBody)
	check := func(what string, body []byte, want int) {
		t.Helper()
		for _, chunked := range []bool{false, true} {
			var r io.Reader = bytes.NewReader(body)
			if chunked {
				r = io.MultiReader(r)
			}
			if got := f.send("POST", pathWebhook, push("a", body), r); got.status != want || (want == 503) != (got.json["reason"] == "busy") {
				t.Errorf("%s (chunked %v): %d %s", what, chunked, got.status, got.body)
			}
		}
	}
	if !f.h.memory.large.TryAcquire(1) {
		t.Fatal("the large lane is taken before anything was sent")
	}
	check("a large one beside a large one", large, 503)
	check("a small one beside a large one", small, 202)
	f.h.memory.large.Release(1)
	check("a large one", large, 202)
	if !f.h.memory.small.TryAcquire(smallTotal) {
		t.Fatal("memory was not given back")
	}
	check("a small one when there are too many", small, 503)
	f.h.memory.small.Release(smallTotal)
	check("a small one", small, 202)
	// Whatever was taken was given back, on every path.
	if !f.h.memory.small.TryAcquire(smallTotal) || !f.h.memory.large.TryAcquire(1) {
		t.Error("memory was not given back")
	}
	f.h.memory.small.Release(smallTotal)
	f.h.memory.large.Release(1)
}

// Memory follows what has come in, not what was promised.
func TestPromisesTakeNoMemory(t *testing.T) {
	m := newMemory(time.Second)
	l, err := m.reserve(context.Background(), 20<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer l.release()
	var b body
	defer b.release()
	if err := b.readFrom(context.Background(), strings.NewReader("x"), l, newSigner(nil)); err != nil {
		t.Fatal(err)
	}
	if len(b.chunks) != 1 {
		t.Errorf("%d pieces for one byte", len(b.chunks))
	}
}
