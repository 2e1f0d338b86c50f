package eventlog

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ducompsoc/durhack-deployer/migrations"
)

// way is the direction of a message.
type way string

const (
	toServer way = "to the server"
	toClient way = "to the client"
)

// fate is what becomes of a message.
type fate string

const (
	pass fate = "passed on"
	// cutBefore loses the message with the connection, cutAfter the connection only.
	cutBefore fate = "cut before"
	cutAfter  fate = "cut after"
	delay     fate = "delayed"
	// lose swallows the message and all that follow it, both ways: the server's end
	// is gone, and the client is told nothing, as behind a router that has lost its
	// state.
	lose fate = "lost"
)

// proxy stands between a pool and Postgres, and sees each message of the protocol
// (PostgreSQL documentation, "Message Formats").
type proxy struct {
	t        *testing.T
	listener net.Listener
	network  string
	server   string
	all      sync.WaitGroup

	mu sync.Mutex
	// decide is asked about each message, in both directions, one at a time.
	decide func(w way, typ byte) fate
	open   map[net.Conn]bool
	closed bool
}

// newProxy starts a proxy for the server of the connection string. It ends with the test.
func newProxy(t *testing.T, dsn string) *proxy {
	t.Helper()
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, network: "tcp", open: map[net.Conn]bool{}, decide: func(way, byte) fate { return pass }}
	p.server = net.JoinHostPort(config.ConnConfig.Host, fmt.Sprint(config.ConnConfig.Port))
	if strings.HasPrefix(config.ConnConfig.Host, "/") {
		p.network, p.server = "unix", fmt.Sprintf("%s/.s.PGSQL.%d", config.ConnConfig.Host, config.ConnConfig.Port)
	}
	if p.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	p.all.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// pool is a pool of the application's role whose connections go through the proxy.
func (p *proxy) pool(t *testing.T, dsn string) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	addr := p.listener.Addr().(*net.TCPAddr)
	config.ConnConfig.Host, config.ConnConfig.Port = addr.IP.String(), uint16(addr.Port)
	config.ConnConfig.TLSConfig, config.ConnConfig.Fallbacks = nil, nil
	config.ConnConfig.ConnectTimeout = patience
	config.AfterConnect = migrations.SetRole
	// A connection whose server is silent is given 15 s to be closed in order, and
	// counts as long.
	config.MaxConns = 64
	pool, err := pgxpool.NewWithConfig(testContext(t), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.close() // else the pool would wait for those
		pool.Close()
	})
	return pool
}

// set replaces the decision about messages.
func (p *proxy) set(decide func(w way, typ byte) fate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.decide = decide
}

func (p *proxy) fate(w way, typ byte) fate {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.decide(w, typ)
}

func (p *proxy) close() {
	p.mu.Lock()
	p.closed = true
	for conn := range p.open {
		conn.Close()
	}
	p.mu.Unlock()
	p.listener.Close()
	p.all.Wait()
}

// own registers a connection; false says that the proxy is closed already.
func (p *proxy) own(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		conn.Close()
		return false
	}
	p.open[conn] = true
	return true
}

func (p *proxy) drop(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, conn)
	conn.Close()
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial(p.network, p.server)
		if err != nil {
			p.t.Errorf("proxy: %v", err)
			client.Close()
			return
		}
		if !p.own(client) || !p.own(server) {
			client.Close()
			server.Close()
			return
		}
		link := &link{proxy: p, client: client, server: server}
		p.all.Go(func() { link.carry(toServer, client, server) })
		p.all.Go(func() { link.carry(toClient, server, client) })
	}
}

// link is one connection through the proxy.
type link struct {
	proxy          *proxy
	client, server net.Conn

	mu   sync.Mutex
	lost bool
}

func (l *link) isLost() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

// carry passes messages on until either side, or the test, ends the connection.
func (l *link) carry(w way, from, to net.Conn) {
	defer func() {
		l.proxy.drop(l.server)
		if w == toServer || !l.isLost() {
			l.proxy.drop(l.client)
		}
	}()
	startup := w == toServer
	for {
		message, err := readMessage(from, startup)
		if err != nil {
			return
		}
		if l.isLost() {
			continue
		}
		typ := message[0]
		if startup { // it has no type
			typ, startup = 0, false
		}
		switch l.proxy.fate(w, typ) {
		case cutBefore:
			return
		case cutAfter:
			_, _ = to.Write(message) // the connection ends either way
			return
		case lose:
			l.mu.Lock()
			l.lost = true
			l.mu.Unlock()
			l.server.Close()
			continue
		case delay:
			time.Sleep(2 * time.Millisecond)
		case pass:
		}
		if _, err := to.Write(message); err != nil && !l.isLost() {
			return
		}
	}
}

// readMessage reads a whole message; the first of a connection has no type byte.
func readMessage(from io.Reader, startup bool) ([]byte, error) {
	head := make([]byte, 5)
	if startup {
		head = head[:4]
	}
	if _, err := io.ReadFull(from, head); err != nil {
		return nil, err
	}
	length := binary.BigEndian.Uint32(head[len(head)-4:])
	if length < 4 || length > 1<<30 {
		return nil, fmt.Errorf("a message of %d bytes", length)
	}
	message := make([]byte, len(head)+int(length)-4)
	copy(message, head)
	_, err := io.ReadFull(from, message[len(head):])
	return message, err
}
