package helper

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/process"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

// Serve answers the one call that comes in: from a socket that systemd has accepted,
// or where in is none, from the program that runs sudo, which names its user in
// SUDO_UID. The error is that of a call that was not even understood, or not answered.
func Serve(ctx context.Context, in *os.File, out io.Writer, rules func() (Rules, error), log *slog.Logger) error {
	ctx, cancel := context.WithTimeoutCause(ctx, callWithin, fmt.Errorf("the call took longer than %v", callWithin))
	defer cancel()
	peer, conn, err := peerOf(in)
	if err != nil {
		return err
	}
	source := io.Reader(in)
	if conn != nil {
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(requestWithin)) // a socket has deadlines
		source, out = conn, patient{conn}
	}
	line, err := bufio.NewReaderSize(io.LimitReader(source, maxRequest), maxRequest).ReadSlice('\n')
	var r Request
	if err == nil {
		decoder := json.NewDecoder(bytes.NewReader(line))
		decoder.DisallowUnknownFields()
		err = decoder.Decode(&r)
	}
	if err != nil {
		return fmt.Errorf("read the request of user %d, process %d: %s", peer.uid, peer.pid, words.Shorten(err.Error(), maxLogged))
	}
	if conn != nil {
		// A caller that is gone wants nothing any more.
		_ = conn.SetReadDeadline(time.Time{})
		hungUp, hangUp := context.WithCancelCause(ctx)
		defer hangUp(nil)
		ctx = hungUp
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			_, _ = io.Copy(io.Discard, conn)
			hangUp(errors.New("the caller has hung up"))
		}()
		defer func() {
			_ = conn.SetReadDeadline(time.Unix(1, 0))
			<-watched
		}()
	}
	named := func(s string) string { return words.Shorten(s, maxLogged) }
	log = log.With("verb", named(r.Verb), "args", words.Shorten(fmt.Sprint(r.Args), maxLoggedArgs), "dry", r.Dry, "uid", peer.uid, "pid", peer.pid,
		"deployment", named(r.Deployment), "delivery", named(r.DeliveryID), "actor", named(r.Actor))
	log.Info("asked")
	begin := time.Now()
	answering := &replies{out: out}
	err = handle(ctx, r, peer, rules, &serial{w: answering})
	result := answer{Done: true}
	took := time.Since(begin).Round(time.Millisecond).String()
	if exit, ok := errors.AsType[*process.ExitError](err); ok {
		result.ExitCode, result.Signal = exit.Code, exit.Signal
		log.Warn("it failed", "took", took, "error", named(err.Error()))
	} else if err != nil {
		result.Error = err.Error()
		log.Warn("it is refused, or failed", "took", took, "error", named(err.Error()))
	} else {
		log.Info("done", "took", took)
	}
	return answering.send(result)
}

// handle does what is asked, where that is allowed.
func handle(ctx context.Context, r Request, peer peer, rules func() (Rules, error), out io.Writer) error {
	allowed, err := rules()
	if err == nil {
		err = allowed.mayAsk(peer.uid)
	}
	if err != nil {
		return err
	}
	todo, err := allowed.task(r, peer)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, verbWithin, fmt.Errorf("%s took longer than %v", r.Verb, verbWithin))
	defer cancel()
	if r.Dry {
		return todo.try(ctx, out)
	}
	return todo.run(ctx, out)
}

// peer is who asks.
type peer struct{ uid, pid int }

// peerOf says who is at the other end of in, and gives in as a connection where it is one.
func peerOf(in *os.File) (peer, net.Conn, error) {
	if _, err := unix.GetsockoptInt(int(in.Fd()), unix.SOL_SOCKET, unix.SO_TYPE); errors.Is(err, unix.ENOTSOCK) {
		// sudo sets these itself, whatever the caller had in its environment.
		uid, err := strconv.Atoi(cmp.Or(os.Getenv("SUDO_UID"), strconv.Itoa(os.Getuid())))
		if err != nil {
			return peer{}, nil, fmt.Errorf("SUDO_UID is not a number: %w", err)
		}
		return peer{uid, os.Getppid()}, nil, nil
	}
	cred, err := unix.GetsockoptUcred(int(in.Fd()), unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return peer{}, nil, fmt.Errorf("ask who is at the other end: %w", err)
	}
	conn, err := net.FileConn(in)
	if err != nil {
		return peer{}, nil, fmt.Errorf("use standard input as a socket: %w", err)
	}
	return peer{int(cred.Uid), int(cred.Pid)}, conn, nil
}

// patient is a connection whose reader may be slow, but not stand still.
type patient struct{ net.Conn }

func (p patient) Write(b []byte) (int, error) {
	_ = p.SetWriteDeadline(time.Now().Add(requestWithin)) // a socket has deadlines
	return p.Conn.Write(b)
}

// replies writes output as lines of an answer, up to a limit.
type replies struct {
	out  io.Writer
	sent int
}

func (r *replies) Write(p []byte) (int, error) {
	for one := range slices.Chunk(p, piece) {
		if r.sent >= maxOutput {
			break
		}
		if r.sent += len(one); r.sent >= maxOutput {
			one = []byte("\n(the rest of the output is left out)\n")
		}
		if err := r.send(answer{Output: one}); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (r *replies) send(a answer) error {
	line, err := json.Marshal(a)
	if err == nil {
		_, err = r.out.Write(append(line, '\n'))
	}
	if err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return nil
}
