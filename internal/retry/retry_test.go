package retry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// lines are what an outage tells.
func lines(out *bytes.Buffer) []string {
	var all []string
	for line := range strings.Lines(out.String()) {
		_, line, _ = strings.Cut(line, " ") // the time
		line, _, _ = strings.Cut(line, " retry_in=")
		all = append(all, strings.TrimSpace(line))
	}
	return all
}

func expect(t *testing.T, out *bytes.Buffer, want ...string) {
	t.Helper()
	if got := lines(out); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the log is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func newOutage(out *bytes.Buffer) *Outage {
	return New(slog.New(slog.NewTextHandler(out, nil)), slog.LevelWarn, "it waits")
}

func TestUntilTellsEachCauseOnceAndTheEndOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		o := newOutage(&out)
		begin, tries := time.Now(), 0
		ok := o.Until(t.Context(), func() error {
			tries++
			switch passed := time.Since(begin); {
			case passed >= time.Hour:
				return nil
			case passed >= time.Minute && tries%2 == 0:
				return errors.New("starting up")
			}
			return fmt.Errorf("port %d: refused", 40000+tries)
		})
		if !ok {
			t.Error("Until gave up")
		}
		if tries > 2000 || tries < 700 {
			t.Errorf("%d tries in an hour, want one in about five seconds", tries)
		}
		expect(t, &out, `level=WARN msg="it waits" error="port 40001: refused"`, `level=WARN msg="it waits" error="starting up"`,
			`level=INFO msg="works again" was="it waits" after=`+time.Since(begin).Round(time.Millisecond).String())
	})
}

func TestOutageThatComesAndGoesIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		o := newOutage(&out)
		begin := time.Now()
		for time.Since(begin) < time.Hour {
			time.Sleep(o.Failed(errors.New("refused")))
			o.Over()
		}
		if n := len(lines(&out)); n != 2 {
			t.Errorf("%d lines in an hour, want one and its end", n)
		}
		// But one that lasts is, however soon it came.
		for begin = time.Now(); time.Since(begin) < 3*last; {
			time.Sleep(o.Failed(errors.New("refused")))
		}
		o.Over()
		if n := len(lines(&out)); n != 4 {
			t.Errorf("%d lines after an outage that lasts, want two more", n)
		}
	})
}

func TestOutageWithEverNewCausesIsBounded(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	o := newOutage(&out)
	for i := range 1000 {
		o.Failed(errors.New(strings.Repeat("x", i)))
	}
	if n := len(lines(&out)); n != maxCauses {
		t.Errorf("%d lines, want %d", n, maxCauses)
	}
	if _, err := o.Now(); err == nil || len(err.Error()) != 999 {
		t.Errorf("the last failure is %v", err)
	}
	o.Over()
	if _, err := o.Now(); err != nil {
		t.Errorf("it is over, but %v", err)
	}
}

func TestUntilEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Minute, cancel)
		if newOutage(&bytes.Buffer{}).Until(ctx, func() error { return errors.New("never") }) {
			t.Error("it never succeeded")
		}
	})
}
