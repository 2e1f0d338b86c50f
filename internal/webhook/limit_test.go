package webhook

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"

	"github.com/ducompsoc/durhack-deployer/queue"
)

// failingListener fails with its errors before it accepts anything.
type failingListener struct {
	net.Listener
	errs []error
}

func (l *failingListener) Accept() (net.Conn, error) {
	if len(l.errs) > 0 {
		err := l.errs[0]
		l.errs = l.errs[1:]
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", err)}
	}
	return l.Listener.Accept()
}

// What accept(2) may get over does not end the listener.
func TestServeOutlivesErrorsOfAccept(t *testing.T) {
	t.Parallel()
	quiet := slog.New(slog.DiscardHandler)
	q, err := queue.Open(t.TempDir(), quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	h, err := NewHandler(Options{Secrets: [][]byte{secret}, Queue: q, Log: quiet, Instance: "test"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	failing := &failingListener{Listener: l, errs: []error{syscall.EMFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EPROTO}}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- NewServer(h, quiet, Limits{}).Serve(ctx, failing) }()
	client := &http.Client{Timeout: limit, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + l.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	cancel()
	if err := <-served; err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("%s, %v", resp.Status, err)
	}
	if err := passing(net.ErrClosed); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the end of the listener became %v", err)
	}
}
