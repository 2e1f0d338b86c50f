package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// secret signs the requests of the benchmarks.
const secret = "a secret of the benchmarks"

// push is the body of a push to owner/app, which moves main forward from before
// to commit, of about size bytes.
func push(before, commit string, size int) []byte {
	return pushTo("owner/app", before, commit, size)
}

func pushTo(repository, before, commit string, size int) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"ref":"refs/heads/main","before":%q,"after":%q,"created":false,"deleted":false,"forced":false,`+
		`"repository":{"full_name":%q,"default_branch":"main"},"pusher":{"name":"octocat"},"sender":{"login":"octocat"},`+
		`"head_commit":{"id":%q,"message":"Change the page"},"commits":[`, before, commit, repository, commit)
	for i := 0; b.Len() < size-200; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"id":"%040x","message":"Change %d","added":[],"removed":[],"modified":["src/page-%d.html"]}`, i, i, i)
	}
	b.WriteString("]}")
	for b.Len() < size {
		b.WriteByte(' ')
	}
	return b.Bytes()
}

// client sends one request again and again over one kept-alive connection. It is
// written out by hand, and the request is made beforehand, because it shares its
// processors with what it measures.
type client struct {
	addr    string
	conn    net.Conn
	in      *bufio.Reader
	request []byte
	id      []byte // the delivery ID, inside request
	sent    int
}

// newClient connects. Deliveries get IDs of their own that end in the number of
// the client and of the request.
func newClient(addr, path string, number int, body []byte) (*client, error) {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	const place = "00000000-0000-0000-0000-000000000000"
	request := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: GitHub-Hookshot/bench\r\nContent-Type: application/json\r\n"+
		"X-GitHub-Delivery: %s\r\nX-GitHub-Event: push\r\nX-GitHub-Hook-ID: 1\r\nX-Hub-Signature-256: sha256=%s\r\nContent-Length: %d\r\n\r\n",
		path, addr, place, hex.EncodeToString(mac.Sum(nil)), len(body))
	at := bytes.Index(request, []byte(place))
	request = append(request, body...)
	id := request[at : at+len(place)]
	copy(id, fmt.Sprintf("%08d", number))
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &client{addr: addr, conn: conn, in: bufio.NewReader(conn), request: request, id: id}, nil
}

func (c *client) close() { _ = c.conn.Close() }

// post sends the request and waits for the answer.
func (c *client) post() error {
	c.sent++
	digits := strconv.AppendInt(nil, int64(c.sent), 10)
	copy(c.id[len(c.id)-len(digits):], digits)
	if err := c.conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	if _, err := c.conn.Write(c.request); err != nil {
		return err
	}
	status, err := c.answer()
	if err == nil && status/100 != 2 {
		err = fmt.Errorf("the answer is %d", status)
	}
	return err
}

// answer reads an answer with a Content-Length and returns its status.
func (c *client) answer() (status int, err error) {
	length := -1
	for first := true; ; first = false {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return 0, fmt.Errorf("read the answer: %w", err)
		}
		line = bytes.TrimRight(line, "\r\n")
		if first {
			fields := bytes.Fields(line)
			if len(fields) < 2 {
				return 0, fmt.Errorf("%q is not an answer", line)
			}
			if status, err = strconv.Atoi(string(fields[1])); err != nil {
				return 0, err
			}
			continue
		}
		if len(line) == 0 {
			break
		}
		if name, v, ok := bytes.Cut(line, []byte(":")); ok && strings.EqualFold(string(name), "Content-Length") {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(v))); err != nil {
				return 0, err
			}
		}
	}
	if length < 0 {
		return 0, errors.New("the answer has no Content-Length")
	}
	_, err = c.in.Discard(length)
	return status, err
}

// clients opens n connections.
func clients(addr, path string, n int, body []byte) (list []*client, closeAll func(), err error) {
	closeAll = func() {
		for _, c := range list {
			c.close()
		}
	}
	for i := range n {
		c, err := newClient(addr, path, i, body)
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		list = append(list, c)
	}
	return list, closeAll, nil
}

// load is what was measured of operations that several goroutines did at once.
type load struct {
	rate float64 // operations a second
	p99  float64 // milliseconds
	n    int
}

// drive does op in n goroutines for as long as it takes, at most max times each.
// Every goroutine does it at least twice.
func drive(ctx context.Context, n int, long time.Duration, max int, op func(worker int) error) (load, error) {
	took := make([][]time.Duration, n)
	failed := make([]error, n)
	var wg sync.WaitGroup
	begin := time.Now()
	end := begin.Add(long)
	for w := range n {
		took[w] = make([]time.Duration, 0, 1024)
		wg.Go(func() {
			for i := 0; i < max && ctx.Err() == nil; i++ {
				at := time.Now()
				if i >= 2 && at.After(end) {
					return
				}
				if err := op(w); err != nil {
					failed[w] = err
					return
				}
				took[w] = append(took[w], time.Since(at))
			}
		})
	}
	wg.Wait()
	whole := time.Since(begin)
	if err := errors.Join(ctx.Err(), errors.Join(failed...)); err != nil {
		return load{}, err
	}
	all := slices.Concat(took...)
	return load{rate: float64(len(all)) / whole.Seconds(), p99: p99(all), n: len(all)}, nil
}
