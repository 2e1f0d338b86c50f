package eventlog

import (
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"pgregory.net/rapid"
)

func TestIDsFollowOneAnotherWhateverTheClockDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		last := ulid.Zero
		if rapid.Bool().Draw(t, "worst random part") {
			// A last ID whose random part is all ones: the next one carries over.
			for i := 6; i < len(last); i++ {
				last[i] = 0xff
			}
			_ = last.SetTime(uint64(now.UnixMilli()))
		}
		for range 50 {
			now = now.Add(time.Duration(rapid.Int64Range(-5000, 5000).Draw(t, "step")) * time.Microsecond)
			if rapid.IntRange(0, 20).Draw(t, "jump") == 0 {
				now = time.Unix(rapid.Int64Range(-1e12, 1e12).Draw(t, "to"), 0)
			}
			id := nextID(last, now)
			if id.Compare(last) <= 0 || id.String() <= last.String() {
				t.Fatalf("%s at %s does not follow %s", id, now, last)
			}
			if ms := uint64(now.UnixMilli()); now.UnixMilli() > 0 && ms > last.Time() && ms <= ulid.MaxTime() && id.Time() != ms {
				t.Fatalf("%s has time %d, want %d", id, id.Time(), ms)
			}
			last = id
		}
	})
}

func TestSameJSON(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{`{"a":1}`, `{"a":1}`, true},
		{`{"a":1,"b":[true,null]}`, "{\"b\": [true, null],\n\"a\": 1}", true},
		{`{"a":"\u003c"}`, `{"a":"<"}`, true},
		{`{"a":1}`, `{"a":2}`, false},
		{`{"a":1}`, `{"a":"1"}`, false},
		{`{"a":9007199254740993}`, `{"a":9007199254740992}`, false},
		{`{"a":null}`, `{}`, false},
		{`{`, `[`, false},
	} {
		if got := sameJSON([]byte(test.a), []byte(test.b)); got != test.want {
			t.Errorf("sameJSON(%s, %s) = %v", test.a, test.b, got)
		}
	}
}
