package nginx

import (
	"fmt"
	"slices"
	"testing"

	"github.com/ducompsoc/durhack-deployer/internal/nginxconf"
)

func TestServers_AreWhatAClientByTLSMeets(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"server { listen 443 ssl; listen [::]:443 ssl; server_name _ *.x.org WWW.x.org x.org; ssl_certificate /a.pem; }": {"www.x.org 127.0.0.1:443 [/a.pem]"},
		"server { listen 80; server_name x.org; ssl_certificate /a.pem; }":                                               nil,
		"server { listen 443 quic; server_name x.org; ssl_certificate /a.pem; }":                                         nil,
		"server { listen unix:/run/x ssl; server_name x.org; ssl_certificate /a.pem; }":                                  nil,
		"server { listen 443 ssl; server_name x.org; ssl_certificate /$ssl_server_name.pem; }":                           nil,
		"server { listen 443 ssl; server_name _; ssl_certificate /a.pem; }":                                              nil,
		"server { listen [::]:8443 ssl default_server; server_name _; ssl_certificate /a.pem; }":                         {" [::1]:8443 [/a.pem]"},
		"server { ssl_certificate /a.pem; ssl_certificate /b.pem; server_name x.org; listen 192.0.2.1:443 ssl http2; }":  {"x.org 192.0.2.1:443 [/a.pem /b.pem]"},
		"ssl_certificate /c.pem; upstream u { server 127.0.0.1:1; } server { listen *:443 ssl; server_name x.org; location / { return 200; } } server { listen [::1] ssl; server_name y.org; ssl_certificate /d.pem; }": {
			"x.org 127.0.0.1:443 [/c.pem]", "y.org [::1]:80 [/d.pem]",
		},
	} {
		list, err := nginxconf.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range servers(list) {
			got = append(got, fmt.Sprintf("%s %s %v", s.Name, s.Address, s.Certificates))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}
