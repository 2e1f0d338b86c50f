package nginx

import (
	"slices"
	"strings"
	"testing"
)

var testRules = rules{
	includePaths: []string{"/etc/nginx/", "/etc/letsencrypt/"}, logPaths: []string{"/var/log/nginx/"}, prefix: "/etc/nginx",
}

const testLive = "/etc/letsencrypt/live"

func siteFile(name, text string) file {
	return file{kind: sites, name: name, path: "production/" + name, text: []byte(text)}
}

func TestInspect_Refuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`"return" 200 x;`:                              `1: "return" is no plain name of a directive`,
		`'access_log' /x;`:                             `1: "access_log" is no plain name of a directive`,
		`\access_log /x;`:                              `1: "\\access_log" is no plain name of a directive`,
		"server {\n\n  load_module /tmp/x.so; }":       "3: load_module is refused",
		`perl_set $x 'sub {}';`:                        "perl_set is refused",
		`js_import x.js;`:                              "js_import is refused",
		`content_by_lua_block { os.execute() }`:        "content_by_lua_block is refused",
		`lua_package_path x;`:                          "lua_package_path is refused",
		`passenger_ruby /x;`:                           "passenger_ruby is refused",
		`ssl_engine x;`:                                "ssl_engine is refused",
		`user root;`:                                   "user is refused",
		`pid /x;`:                                      "pid is refused",
		`lock_file /x;`:                                "lock_file is refused",
		`client_body_temp_path /etc/cron.d;`:           "client_body_temp_path is refused",
		`proxy_cache_path /etc/cron.d keys_zone=a:1m;`: "proxy_cache_path is refused",
		`proxy_store /etc/cron.d/x;`:                   "proxy_store is refused",
		`fastcgi_store on;`:                            "fastcgi_store is refused",
		`dav_methods PUT;`:                             "dav_methods is refused",
		`proxy_ssl_key_log /etc/x;`:                    "proxy_ssl_key_log is refused",
		`ssl_certificate_key engine:x:y;`:              "ssl_certificate_key engine: is refused",
		`proxy_ssl_certificate_key "engine:x:y";`:      "proxy_ssl_certificate_key engine: is refused",
		`access_log /etc/cron.d/x fmt;`:                `access_log "/etc/cron.d/x" is refused`,
		`access_log "/etc/cron.d/x" fmt;`:              "access_log",
		`access_log /var/log/nginx/../../etc/x;`:       "access_log",
		`access_log /var/log/nginx/$host.log;`:         "access_log",
		`access_log /var/log/nginx;`:                   "access_log",
		`access_log logs/x;`:                           "access_log",
		`error_log /var/log/nginxx/a;`:                 "error_log",
		`listen unix:/etc/nologin;`:                    `listen "unix:/etc/nologin" is refused`,
		`listen "UNIX:/run/nologin" ssl;`:              "listen",
		`listen unix:/var/run/nologin;`:                "listen",
		`listen unix:/run/a/../nologin;`:               "listen",
		`listen unix:logs/x;`:                          "listen",
		`include /etc/shadow;`:                         `include "/etc/shadow" is refused`,
		`include ../shadow;`:                           "include",
		`include /etc/nginx/.?/shado[w];`:              "include",
		`include "/etc/nginx/\.\./shado[w]";`:          "include",
		`map $a $b { include /etc/shadow; }`:           "include",
		`types { "include" /etc/shadow; }`:             "include",
		`map $a $b { server { access_log /x; } }`:      "a block inside of map",
		`map $a $b { x y; } access_log /x;`:            "access_log",
		// Readers with other quotes and escapes than nginx see no directive in these.
		"set $a `; access_log /etc/x; set $b `;":                                               `access_log "/etc/x"`,
		`set $a "\\"; access_log /etc/x; set $b "";`:                                           `access_log "/etc/x"`,
		"set $a x\\ \"; access_log /etc/x; set $b x\\ \";":                                     `access_log "/etc/x"`,
		`map $a $x_by_lua_block { "{" 1; } server { access_log /etc/x; } map $a $c { "}" 1; }`: `access_log "/etc/x"`,
		"set $a ${b}; access_log /etc/x;":                                                      `access_log "/etc/x"`,
		"set $a b#c; access_log /etc/x;":                                                       `access_log "/etc/x"`,
		"set $a '\"'; access_log /etc/x; set $a '\"';":                                         `access_log "/etc/x"`,
		// What stands before an error counts, and an error is one.
		"access_log /etc/x; }": `access_log "/etc/x"`,
		"}":                    `1: unexpected "}"`,
		"server {\n":           `2: unexpected end of file, expecting "}"`,
		"listen 80":            `1: unexpected end of file, expecting ";" or "}"`,
		";":                    `1: unexpected ";"`,
		`set $a "b"c;`:         `1: unexpected "c"`,
		"listen 80 }":          `1: unexpected "}"`,
		"listen 80;\nx \x00;":  "2: a NUL byte",
	} {
		_, err := testRules.inspect(siteFile("[a.test].nginxconf", text), testLive)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "production/[a.test].nginxconf:") {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func TestInspect_Accepts(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "# only a comment }{;", "server { listen 80; }", "\xef\xbb\xbfserver{listen 80;}"[3:],
		"access_log off;", "access_log syslog:server=unix:/dev/log fmt;", "access_log /var/log/nginx/a.test/x.log combined buffer=1k;", "error_log stderr;",
		"listen unix:/run/app/x.sock;", "listen unix:/var/run/app/x.sock ssl;", "listen [::]:80;", "listen;",
		"include /etc/nginx/snippets/x.nginxconf;", "include mime.types;", "include fastcgi_params;", `include "/etc/nginx/conf.d/\[a\].conf";`, "include /etc/letsencrypt/options-ssl-nginx.conf;",
		"map $http_upgrade $connection_upgrade { default upgrade; '' close; ~*^.*\\.png$ 1; \"{\" 2; hostnames; }",
		"types { text/html html htm; application/x-y+z a; }", "geo $x { 127.0.0.1/32 1; }", "split_clients $a $b { 0.5% one; * two; }", "charset_map koi8-r utf-8 { C0 D18E; }",
		"server { location ~ ^/[a-z]+$ { return 200 \"a;b{}\"; } if ($a ~ \"b\") { return 301 https://$host$request_uri; } }",
		"server {\r\n listen 80;\r\n}\r\n",
		"ssl_certificate_key /etc/letsencrypt/live/a.test/privkey.pem;", "ssl_certificate data:$x;",
	} {
		if _, err := testRules.inspect(siteFile("[a.test].nginxconf", text), testLive); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	allowing := testRules
	allowing.allowed = []string{"proxy_store", "access_log"}
	for _, text := range []string{"proxy_store on;", "access_log /srv/log;"} {
		if _, err := allowing.inspect(siteFile("x.conf", text), testLive); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	// nginx reads no disabled file; what it must not read, it may be asked to later.
	if _, err := testRules.inspect(siteFile("[a.test].nginxconf.disabled", "server {"), testLive); err != nil {
		t.Error(err)
	}
	if _, err := testRules.inspect(siteFile("[a.test].nginxconf.disabled", "load_module x; server {"), testLive); err == nil {
		t.Error("a disabled file may load a module")
	}
}

func TestInspect_Names(t *testing.T) {
	t.Parallel()
	const text = `
server { server_name A.test "b.a.test" 'c.a.test'; listen 443 ssl;
    ssl_certificate /etc/letsencrypt/live/a.test/fullchain.pem; }
server { server_name *.a.test ~^x\.a\.test$ _ "" .a.test 10.0.0.1 [::1] localhost $host a.test d.a.test; }
map $a $b { server_name not.a.test; }
`
	found, err := testRules.inspect(siteFile("[a.test].nginxconf", text), testLive)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"a.test", "b.a.test", "c.a.test", "d.a.test"}; !slices.Equal(found.names, want) || !found.certificate {
		t.Errorf("found %+v, want the names %q", found, want)
	}
	if want := []string{"", "$host", "*.a.test", ".a.test", "10.0.0.1", "[::1]", "_", "localhost", `~^x\.a\.test$`}; !slices.Equal(found.others, want) {
		t.Errorf("left out were %q, want %q", found.others, want)
	}
	for name, text := range map[string]string{
		"[a.test].nginxconf":          "ssl_certificate /etc/letsencrypt/live/other.test/fullchain.pem;",
		"[a.test].conf":               "ssl_certificate /etc/letsencrypt/live/a.test.evil/fullchain.pem;",
		"plain.nginxconf":             text,
		"[a.test].nginxconf.disabled": text,
	} {
		if found, err := testRules.inspect(siteFile(name, text), testLive); err != nil || found.certificate {
			t.Errorf("%s: %+v, %v", name, found, err)
		}
	}
}

func FuzzInspect(f *testing.F) {
	for _, text := range []string{"", "server { listen 80; }", `a "b\"c" 'd' ${e} \;;`, "map $a $b { \"{\" 1; }", "a{b{c{}}}", "\\", "\"", "${"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := testRules.inspect(siteFile("[a.test].conf", text), testLive); err == nil && strings.Contains(text, "\x00") {
			t.Errorf("%q is accepted", text)
		}
	})
}
