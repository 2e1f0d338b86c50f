package nginx

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ducompsoc/durhack-deployer/internal/nginxconf"
)

// Served is a server of a site that is live, as a client by TLS on this host meets it.
type Served struct {
	// File is the site's, Name what the client asks for; "" asks for nothing.
	File, Name string
	Address    string
	// Certificates are the files that it names.
	Certificates []string
}

// Served lists the servers by TLS of the sites that are live.
func (h *Handler) Served() ([]Served, error) {
	tree, err := h.layout.current()
	if err != nil || tree == "" {
		return nil, err
	}
	dir := filepath.Join(h.layout.live, tree, string(sites))
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []Served
	for _, e := range entries {
		if !parseName(e.Name()).enabled || !h.layout.leads(filepath.Join(h.cfg.ConfDir, e.Name()), h.layout.target(sites, e.Name())) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		list, _ := nginxconf.Parse(text) // nginx tests it; what can be read counts
		for _, s := range servers(list) {
			s.File = e.Name()
			all = append(all, s)
		}
	}
	return all, nil
}

// LiveCertificates is the directory in which certbot keeps those of each site.
func (h *Handler) LiveCertificates() string { return h.cfg.Certificates.live() }

// server is one of a file's.
type server struct {
	Served
	// byDefault says that it takes clients that ask for no name.
	byDefault bool
}

// servers are those of a file that a client can meet by TLS, each at the first address
// and with the first name that there is.
func servers(list []nginxconf.Directive) []Served {
	var all []server
	var common []string // certificates outside of a server
	for _, d := range list {
		switch {
		case d.Name() == "server" && d.Block && len(d.Inside) == 0:
			all = append(all, server{})
		case d.Name() == "ssl_certificate" && len(d.Inside) == 0 && len(d.Words) > 1:
			common = append(common, d.Words[1].Text)
		case slices.Equal(d.Inside, []string{"server"}) && len(d.Words) > 1:
			all[len(all)-1].read(d)
		}
	}
	var served []Served
	for _, s := range all {
		if len(s.Certificates) == 0 {
			s.Certificates = common
		}
		variable := slices.ContainsFunc(s.Certificates, func(file string) bool { return strings.Contains(file, "$") })
		if s.Address != "" && (s.Name != "" || s.byDefault) && len(s.Certificates) > 0 && !variable {
			served = append(served, s.Served)
		}
	}
	return served
}

func (s *server) read(d nginxconf.Directive) {
	text := d.Words[1].Text
	is := func(word string) bool {
		return slices.ContainsFunc(d.Words[2:], func(w nginxconf.Word) bool { return w.Text == word })
	}
	switch {
	case d.Name() == "ssl_certificate":
		s.Certificates = append(s.Certificates, text)
	case d.Name() == "listen" && s.Address == "" && is("ssl"):
		s.Address, s.byDefault = reachable(text), is("default_server")
	case d.Name() == "server_name":
		for _, w := range d.Words[1:] {
			if name := strings.ToLower(w.Text); s.Name == "" && certifiable(name) {
				s.Name = name
			}
		}
	}
}

// reachable is where a client on this host meets what listens at an address; "" where
// it is no address of TCP.
func reachable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if _, notPort := strconv.Atoi(listen); err != nil && notPort == nil {
		host, port = "", listen
	} else if err != nil {
		host, port = strings.Trim(listen, "[]"), "80"
	}
	switch host {
	case "unix":
		return ""
	case "", "*", "0.0.0.0":
		host = "127.0.0.1"
	case "::":
		host = "::1"
	}
	return net.JoinHostPort(host, port)
}
