//go:build integration

package nginx_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/handlers/nginx"
	"github.com/ducompsoc/durhack-deployer/internal/helper"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

func pebbleDir() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("durhack-pebble-%d", os.Getpid()))
}

// pebble builds the CA and its name server, which are a module of their own.
var pebble = sync.OnceValues(func() (string, error) {
	dir := pebbleDir()
	cmd := exec.Command("go", "build", "-o", dir+"/", "github.com/letsencrypt/pebble/v2/cmd/pebble", "github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv")
	cmd.Dir = "../pebble"
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("build pebble: %w\n%s", err, out)
	}
	return dir, err
})

// ca is one on this machine, which validates for real: each name leads to the nginx of
// the test.
type ca struct {
	directory, bundle string
	// orders counts what comes to the proxy in front of it; limited makes it refuse them.
	orders  atomic.Int64
	limited atomic.Pointer[string] // the value of Retry-After
	pebble  *exec.Cmd
}

func (s *site) startCA(validity time.Duration) *ca {
	s.Helper()
	bin, err := pebble()
	if err != nil {
		s.Fatal(err)
	}
	dir := filepath.Join(s.dir, "ca")
	if err := os.Mkdir(dir, 0o755); err != nil {
		s.Fatal(err)
	}
	pair := selfSigned(s.T, dir, 24*time.Hour, s.loopback)
	local := func() string {
		host, port := testkit.Address()
		return fmt.Sprintf("%s:%d", host, port)
	}
	acme, names := local(), local()
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": acme, "managementListenAddress": local(),
		"certificate": filepath.Join(dir, "cert.pem"), "privateKey": filepath.Join(dir, "key.pem"),
		"httpPort": s.port, "tlsPort": 1, "retryAfter": map[string]int{"authz": 1, "order": 1},
		"domainBlocklist": []string{"blocked.test"},
		"profiles":        map[string]any{"default": map[string]any{"description": "default", "validityPeriod": int(validity.Seconds())}},
	}})
	if err != nil {
		s.Fatal(err)
	}
	s.file("ca/pebble.json", string(config))
	s.start(filepath.Join(bin, "pebble-challtestsrv"), "-management", local(), "-dnsserver", names,
		"-defaultIPv4", s.loopback, "-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "")
	c := &ca{bundle: filepath.Join(dir, "cert.pem")}
	c.pebble = s.start(filepath.Join(bin, "pebble"), "-config", filepath.Join(dir, "pebble.json"), "-dnsserver", names)
	behind, err := url.Parse("https://" + acme)
	if err != nil {
		s.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(pair.Leaf)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	s.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport, Timeout: 5 * time.Second}
	testkit.Wait(s.T, "the CA answers", func() bool {
		resp, err := client.Get(behind.String() + "/dir")
		if err == nil {
			_ = resp.Body.Close()
		}
		return err == nil
	})
	front := httptest.NewUnstartedServer(c.proxy(behind, transport))
	front.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	front.Config.ErrorLog = nil
	front.StartTLS()
	s.Cleanup(front.Close)
	c.directory = front.URL + "/dir"
	return c
}

// proxy stands in front of the CA: it counts orders, and can refuse them as Let's
// Encrypt does.
func (c *ca) proxy(behind *url.URL, transport http.RoundTripper) http.Handler {
	forward := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(behind)
		r.Out.Host = r.In.Host // the URLs that the CA hands out lead back here
	}}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && r.URL.Path == "/order-plz" {
			c.orders.Add(1)
			if after := c.limited.Load(); after != nil {
				nonce := httptest.NewRecorder()
				forward.ServeHTTP(nonce, httptest.NewRequest(http.MethodHead, "/nonce-plz", nil))
				w.Header().Set("Replay-Nonce", nonce.Result().Header.Get("Replay-Nonce"))
				w.Header().Set("Content-Type", "application/problem+json")
				w.Header().Set("Retry-After", *after)
				w.WriteHeader(http.StatusTooManyRequests)
				_, _ = io.WriteString(w, `{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s","status":429}`)
				return
			}
		}
		forward.ServeHTTP(w, r)
	})
}

// start starts a program that ends with the test.
func (s *site) start(argv ...string) *exec.Cmd {
	s.Helper()
	var said bytes.Buffer
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0")
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if s.Failed() {
			text := said.String()
			s.Logf("%s said at last:\n%s", filepath.Base(argv[0]), text[max(0, len(text)-2000):])
		}
	})
	return cmd
}

// selfSigned writes a certificate for 127.0.0.1, and others, that is its own CA.
func selfSigned(t *testing.T, dir string, validity time.Duration, others ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(validity),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, other := range others {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(other))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	for name, data := range map[string][]byte{"cert.pem": certPEM, "key.pem": keyPEM} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	if pair.Leaf, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return pair
}

// served is the certificate that nginx shows for a name over TLS.
func (s *site) served(name string) *x509.Certificate {
	s.Helper()
	conn, err := (&tls.Dialer{Config: &tls.Config{ServerName: name, InsecureSkipVerify: true}}).DialContext(s.Context(), "tcp", fmt.Sprintf("%s:%d", s.loopback, s.tlsPort))
	if err != nil {
		s.Fatal(err)
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
}

// tlsServer is a site file with the certificate of site, for these names.
func (s *site) tlsServer(site, text string, names ...string) string {
	return fmt.Sprintf(`server {
    listen %[8]s:%[1]d;
    listen %[8]s:%[2]d ssl;
    server_name %[3]s;
    ssl_certificate %[4]s/live/%[5]s/fullchain.pem;
    ssl_certificate_key %[4]s/live/%[5]s/privkey.pem;
    location /.well-known/acme-challenge/ { root %[6]s/webroot; }
    location / { return 200 %[7]q; }
}
`, s.port, s.tlsPort, strings.Join(names, " "), filepath.Join(s.dir, "le"), site, s.dir, text, s.loopback)
}

// certify has the site's certificates asked for at a CA of the test's own.
func (s *site) certify(c *ca) {
	le := filepath.Join(s.dir, "le")
	s.cfg.Certificates = nginx.Certificates{Authenticator: nginx.AuthenticatorWebroot, Directory: le, RenewBefore: 30 * 24 * time.Hour}
	s.cfg.IncludePaths = append(s.cfg.IncludePaths, le)
	s.certificates = helper.Certificates{
		Names: []string{"*"}, Authenticator: "webroot", Webroot: filepath.Join(s.dir, "webroot"), Server: c.directory,
		Command: []string{"/usr/bin/env", "REQUESTS_CA_BUNDLE=" + c.bundle, "certbot", "--config-dir", le, "--work-dir", le + "/work", "--logs-dir", le + "/logs"},
		Live:    filepath.Join(le, "live"), Log: filepath.Join(le, "logs/letsencrypt.log"),
	}
}
