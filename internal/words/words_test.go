package words

import (
	"encoding/json"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestJSON_HoldsWhatItHeldAndDrivesNoTerminal(t *testing.T) {
	t.Parallel()
	if got, err := JSON("a\u009b\u202e\U000e0001\x7f\u00fc"); err != nil || string(got) != `"a\u009b\u202e\udb40\udc01\u007f`+"\u00fc"+`"` {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := JSON(func() {}); err == nil {
		t.Error("a function has JSON")
	}
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.String().Draw(t, "text")
		raw, err := JSON(want)
		if err != nil {
			t.Fatal(err)
		}
		var got string
		if err := json.Unmarshal(raw, &got); err != nil || got != want {
			t.Fatalf("%q became %q, %v", want, got, err)
		}
	})
}

func TestSpan_ChangesItsUnitAtAMinute(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0 ms", 999 * time.Millisecond: "999 ms", time.Second: "1.0 s", 1250 * time.Millisecond: "1.2 s",
		time.Minute - time.Millisecond: "60.0 s", time.Minute: "1m0s", 90*time.Minute + 600*time.Millisecond: "1h30m1s",
	} {
		if got := Span(d); got != want {
			t.Errorf("Span(%v) is %q", d, got)
		}
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	for got, want := range map[string]string{
		Counted(0, "push", "pushes"):                 "0 pushes",
		Counted(int64(1), "push", "pushes"):          "1 push",
		Counted(2, "push", "pushes"):                 "2 pushes",
		ShortCommit("abc"):                           "abc",
		ShortCommit("0123456789abcdef"):              "0123456789ab",
		UTC(at):                                      "2026-01-02 02:04 UTC",
		Canceled("ada", ""):                          "canceled by ada",
		Canceled("ada", "why"):                       "canceled by ada: why",
		Shorten("\u00fc\u00fc\u00fc\u00fc", 4):       "\u00fc\u00fc\u00fc\u00fc",
		Shorten("\u00fc\u00fc\u00fc\u00fc\u00fc", 4): "\u00fc...",
	} {
		if got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
	if got, err := time.Parse(ClockLayout, Clock(at)); err != nil || !got.Equal(at) {
		t.Errorf("Clock says %q: %v", Clock(at), err)
	}
}

func TestCut_EndsBetweenTwoCharacters(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		most int
		end  string
		want string
	}{
		{"", 0, "...", ""}, {"abc", 3, "...", "abc"}, {"abcd", 3, "", "abc"}, {"abcdef", 5, "...", "ab..."},
		{"a\u00fcb", 2, "", "a"}, {"a\u00fcb", 3, "", "a\u00fc"}, {"\u00fcab", 3, "..", ".."}, {"abcd", 2, "...", "..."},
	} {
		if got := Cut(c.text, c.most, c.end); got != c.want {
			t.Errorf("Cut(%q, %d, %q) is %q", c.text, c.most, c.end, got)
		}
	}
}

func TestOneLine_StaysOnItsLine(t *testing.T) {
	t.Parallel()
	if got, want := OneLine("\n a\tb\r\nc\x1b[31m d\u202ee \xff\n"), "a b c [31m d e \uFFFD"; got != want {
		t.Errorf("%q", got)
	}
}
