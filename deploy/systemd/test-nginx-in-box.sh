#!/bin/bash
# nginx in the box, as root: the deployer as it is shipped, in its hardened unit, puts site
# files live through the helper, with a certificate by certbot from a CA in the box; what is
# broken is put back, and what no rule allows is refused.

rules=/etc/durhack-deployer/helper.toml
configure <<TOML
[deployments.nginx]
repository = "durhack/hello"
branch = "main"
remote = "$repo"
path = "/srv/www/nginx"

[[deployments.nginx.sites]]
rule = "include"
select = ["*"]
TOML
cat > helper.toml <<'TOML'
[nginx]
unit = "nginx"

[certificates]
names = ["*.example.com"]
command = ["/usr/bin/certbot", "--no-verify-ssl"] # the CA's own certificate is nobody's
server = "https://127.0.0.1:14000/dir"
TOML
docs helper
docs nginx docs/handlers/nginx.md

# A CA whose names all lead here.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost -keyout /root/ca.key -out /root/ca.pem 2> /dev/null
cat > /root/pebble.json <<'JSON'
{"pebble": {"listenAddress": "127.0.0.1:14000", "managementListenAddress": "127.0.0.1:15000", "certificate": "/root/ca.pem", "privateKey": "/root/ca.key",
  "httpPort": 80, "tlsPort": 443, "retryAfter": {"authz": 1, "order": 1}, "profiles": {"default": {"description": "default", "validityPeriod": 7776000}}}}
JSON
/opt/next/pebble-challtestsrv -management 127.0.0.1:8055 -dnsserver 127.0.0.1:8053 -defaultIPv4 127.0.0.1 -defaultIPv6 "" -http01 "" -https01 "" -tlsalpn01 "" -doh "" > /tmp/names.log 2>&1 &
PEBBLE_VA_NOSLEEP=1 PEBBLE_WFE_NONCEREJECT=0 /opt/next/pebble -config /root/pebble.json -dnsserver 127.0.0.1:8053 > /tmp/ca.log 2>&1 &

# site NAME TEXT writes the site's file; git_commit takes it.
site() {
  mkdir -p "$work/production"
  cat > "$work/production/[$1].nginxconf" <<NGINX
server {
  listen 443 ssl;
  server_name $1;
  ssl_certificate /etc/letsencrypt/live/$1/fullchain.pem;
  ssl_certificate_key /etc/letsencrypt/live/$1/privkey.pem;
  location / { return 200 "$2\n"; }
}
NGINX
}
# serves NAME TEXT asks nginx over TLS.
serves() {
  local said
  said=$(curl -sSk --resolve "$1:443:127.0.0.1" "https://$1/") || true
  [ "$said" = "$2" ] || fail "$1 serves $said"
}

say "a site goes live, with a certificate"
deployer doctor > /tmp/doctor || true
grep '^ok *helper *root would do 5 things$' /tmp/doctor || fail "doctor says: $(cat /tmp/doctor)"
site www.example.com one
deploys nginx-1 one
ends nginx-1 deployed
serves www.example.com one
[ -e /etc/letsencrypt/live/www.example.com/fullchain.pem ] || fail "there is no certificate"
journalctl --no-pager -t durhack-deployer-helper > /tmp/journal
for verb in nginx-test nginx-reload certificate-info certificate; do
  grep "msg=asked verb=$verb .* deployment=nginx delivery=nginx-1 actor=octocat" /tmp/journal > /dev/null || fail "root's journal has no $verb: $(cat /tmp/journal)"
done
deployer doctor > /tmp/doctor || true
grep '^ok *certificates *1 certificate served as in the files$' /tmp/doctor || fail "doctor says: $(cat /tmp/doctor)"

say "what nginx does not take is put back, and what it said is in the event; the fix goes live"
sed -i 's/return 200/no_such_directive 200/' "$work"/production/*
deploys nginx-2 two
ends nginx-2 failed
failed_with nginx-2 'unknown directive \\"no_such_directive\\"'
serves www.example.com one
nginx -t || fail "the files that stand are broken"
site www.example.com three
asked=$(grep -c 'verb=certificate .* dry=false' /tmp/journal)
deploys nginx-3 three
ends nginx-3 deployed
serves www.example.com three
journalctl --no-pager -t durhack-deployer-helper > /tmp/journal
[ "$(grep -c 'verb=certificate .* dry=false' /tmp/journal)" = "$asked" ] || fail "a certificate was asked for that is there"

say "a port that another program has passes the test, and is seen at the reload"
/opt/next/pebble-challtestsrv -management 127.0.0.1:8056 -dnsserver "" -http01 :8444 -https01 "" -tlsalpn01 "" -doh "" > /tmp/port.log 2>&1 &
until_true 10 "the port is taken" curl -s -o /dev/null http://127.0.0.1:8444/
sed 's/443/8444/; s/three/four/' "$work/production/[www.example.com].nginxconf" > "$work/production/other.nginxconf"
deploys nginx-4 four
ends nginx-4 failed
failed_with nginx-4 '8444 failed (98'
serves www.example.com three
git -C "$work" rm -q --cached production/other.nginxconf
rm "$work/production/other.nginxconf"

say "what no rule allows is refused, and the old version serves"
site www.elsewhere.org five
deploys nginx-5 five
ends nginx-5 failed
failed_with nginx-5 'www.elsewhere.org is not allowed by /etc/durhack-deployer/helper.toml'
serves www.example.com three
rm "$work/production/[www.elsewhere.org].nginxconf"
sed -i '/^unit/d' "$rules"
site www.example.com six
deploys nginx-6 six
ends nginx-6 failed
failed_with nginx-6 'is not allowed by /etc/durhack-deployer/helper.toml: if it should be, add \[nginx\] unit'
echo 'access_log /etc/cron.d/x;' >> "$work/production/[www.example.com].nginxconf"
deploys nginx-7 seven
ends nginx-7 failed
failed_with nginx-7 '"step":"inspect"'
[ ! -e /etc/cron.d/x ] || fail "nginx wrote a file of root's"
serves www.example.com three
install -m 644 helper.toml "$rules"
site www.example.com eight
deploys nginx-8 eight
ends nginx-8 deployed
serves www.example.com eight
deployer verify || fail "verify finds breaches"
