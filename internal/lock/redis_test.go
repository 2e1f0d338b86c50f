package lock

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestRedis_URLErrorsTellNothing(t *testing.T) {
	const secret = "hunter2"
	for _, raw := range []string{
		"", "redis", "http://:" + secret + "@host", "postgres://u:" + secret + "@h/db",
		"redis://:" + secret + "/x@host:6379/0", // an unescaped slash
		"redis://:" + secret + "%zz@host",
		"redis://host:6379/" + secret,
		"redis://u:" + secret + "@host/0?nonsense=" + secret,
		"redis://u:" + secret + "@host/0/" + secret,
		"redis://u:p@ss:" + secret + " @host",
		"redis://[" + secret, secret + "://x", "\x00" + secret,
	} {
		l, err := NewRedis(raw, "test", time.Minute, slog.New(slog.DiscardHandler))
		if err == nil {
			t.Errorf("%q was accepted", raw)
			_ = l.Close()
			continue
		}
		if strings.Contains(err.Error(), secret) {
			t.Errorf("%q: the error tells the password: %v", raw, err)
		}
		if !strings.Contains(err.Error(), "redis://") {
			t.Errorf("%q: the error does not say how it should be: %v", raw, err)
		}
	}
}

func TestRedis_AcceptsItsURLs(t *testing.T) {
	for _, raw := range []string{
		"redis://localhost:6379", "redis://:p%2Fw@localhost/3", "rediss://user:pw@example.com:6380/0", "unix:///run/redis.sock?db=1",
	} {
		l, err := NewRedis(raw, "test", time.Minute, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := NewRedis("redis://localhost", "test", time.Millisecond, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a time to live of 1 ms was accepted")
	}
}

// A server that does not answer is asked again and again, told of once, and given
// up with the context.
func TestRedis_AwayIsWaitedFor(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var hangingUp sync.WaitGroup
	hangingUp.Go(func() {
		for n := 1; ; n++ {
			c, err := server.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
			if n == 4 {
				cancel()
			}
		}
	})
	var out bytes.Buffer
	l, err := NewRedis("redis://:hunter2@"+server.Addr().String(), "test", time.Minute, slog.New(slog.NewTextHandler(&out, nil)))
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = l.Acquire(ctx, "web")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if n := strings.Count(out.String(), "\n"); n != 1 {
		t.Errorf("%d log lines instead of one:\n%s", n, out.String())
	}
	if err == nil || strings.Contains(out.String()+err.Error(), "hunter2") {
		t.Errorf("the password is told: %s %v", out.String(), err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	_ = server.Close()
	hangingUp.Wait()
}
