#!/bin/bash
# The deployer deploys itself in the box, as root: a good version, one that is killed in
# its probation, one that ends at once, one that hangs before it is up, one that does not
# take the configuration; pushes are accepted all the while.
set -euo pipefail
cd /root/checkout
. deploy/systemd/box.sh

install_deployer
cat > deployer.toml <<TOML
instance = "box"
webhook_secret_file = "/etc/durhack-deployer/webhook-secret"
executable_search_paths = ["/opt/fake"]

[listen]
host = "127.0.0.1"

[deployments.deployer]
repository = "durhack/hello"
branch = "main"
remote = "$repo"
path = "/srv/www/deployer"
systemd_unit_name = "durhack-deployer"

[deployments.deployer.self]
ready_for = "3s"
probation = "1m"
TOML
# There is no Go in the box: this "builds" what the commit's index.html says.
install -d /opt/fake
cat > /opt/fake/go <<'FAKE'
#!/bin/sh
set -e
[ "$1 $2 $3 $5 $7" = "build -trimpath -ldflags -o ./cmd/durhack-deployer" ] || exit 2
commit=${4#*main.commit=} out=$6/durhack-deployer kind=$(cat index.html)
case $kind in
  good*) LC_ALL=C sed "s/c\{40\}/$commit/" /opt/next/durhack-deployer > "$out" ;;
  nonsense) exit 1 ;;
  *)
    schema=$(/opt/next/durhack-deployer version --json | sed 's/.*"schema":\([0-9]*\).*/\1/')
    cat > "$out" <<PROGRAM
#!/bin/sh
case \$1 in
  version) echo '{"revision":"$commit","schema":$schema}' ;;
  config) [ $kind != refuses ] || { echo 'unknown key "deployments"' >&2; exit 1; } ;;
  serve) [ $kind = hangs ] || exit 1; sleep 1000 ;;
esac
PROGRAM
    ;;
esac
chmod 755 "$out"
FAKE
chmod 755 /opt/fake/go /opt/next/durhack-deployer

current() { basename "$(readlink /opt/durhack-deployer/current)"; }
# runs VERSION says whether the daemon is of that version.
runs() { case $(readlink "/proc/$(main_pid)/exe") in */releases/"$1"/durhack-deployer) ;; *) return 1 ;; esac; }
# deploys DELIVERY KIND pushes it; ends DELIVERY TYPE waits for its end, which must be that.
deploys() {
  git_commit "$2"
  push "$commit" "$1"
}
ended() { deployer log --json --delivery "$1" 2> /dev/null | grep -E '"type":"(deployed|failed)"' > "/tmp/end-$1"; }
ends() {
  until_true 100 "the end of $1" ended "$1"
  [ "$(grep -c "\"type\":\"$2\"" "/tmp/end-$1")" = "$(wc -l < "/tmp/end-$1")" ] || fail "$1 ended otherwise: $(cat "/tmp/end-$1"; deployer logs "$1")"
}
# failed_with DELIVERY WORDS says whether it failed for that.
failed_with() { grep "$2" "/tmp/end-$1" > /dev/null || fail "$1 failed otherwise: $(cat "/tmp/end-$1")"; }

docs configure
secret=$(cat /etc/durhack-deployer/webhook-secret)

say "without the link and the guard nothing is put in place"
deploys self-0 good0
ends self-0 failed
failed_with self-0 'put the first release in place by hand.*durhack-deployer.service has no ExecStartPre=-/usr/local/lib/durhack-deployer/guard'

say "set up"
docs self docs/handlers/self.md
systemd-analyze verify "/etc/systemd/system/$unit" 2>&1 | tee /tmp/verify
[ ! -s /tmp/verify ] || fail "systemd-analyze verify has complaints"
runs first || fail "it runs $(readlink "/proc/$(main_pid)/exe")"
printf '[Service]\nTimeoutStartSec=4s\n' > "/etc/systemd/system/$unit.d/test.conf"
systemctl daemon-reload
sign durhack/elsewhere "$(printf '0%.0s' {1..40})"
hammer 1 &

say "a good version"
deploys self-1 good
first=$commit
ends self-1 deployed
runs "$first" || fail "it runs $(readlink "/proc/$(main_pid)/exe")"
deployer logs self-1 | grep 'switched from first to' > /dev/null || fail "the run log: $(deployer logs self-1)"
until_true 10 "the probation is over" test ! -e /var/lib/durhack-deployer/self/probation.json

say "one that is killed in its probation, twice"
deploys self-2 good2
second=$commit
for _ in 1 2; do
  until_true 60 "the switch" runs "$second"
  kill_main
done
ends self-2 deployed
runs "$second" || fail "it runs $(readlink "/proc/$(main_pid)/exe")"

say "one that ends at once"
deploys self-3 exits
ends self-3 failed
failed_with self-3 'did not come up in 3 starts; switched back to '
[ "$(current)" = "$second" ] && runs "$second" || fail "current is $(current)"

say "one that hangs before it is up"
deploys self-4 hangs
ends self-4 failed
failed_with self-4 'did not come up in 3 starts; switched back to '
[ "$(current)" = "$second" ] && runs "$second" || fail "current is $(current)"

say "one that does not take the configuration, and one that is not built"
pid=$(main_pid)
deploys self-5 refuses
ends self-5 failed
failed_with self-5 '"step":"check"'
deployer logs self-5 | grep 'unknown key' > /dev/null || fail "the run log: $(deployer logs self-5)"
deploys self-6 nonsense
ends self-6 failed
failed_with self-6 '"step":"build"'
[ "$(main_pid)" = "$pid" ] || fail "the deployer was restarted"

say "the next push is able to succeed"
deploys self-7 good3
ends self-7 deployed
runs "$commit" || fail "it runs $(readlink "/proc/$(main_pid)/exe")"

say "nothing was refused meanwhile, and all is accounted for"
touch /tmp/enough
wait
refused=$(cat /tmp/refused-* 2> /dev/null) || true
[ -z "$refused" ] || fail "refused: $refused"
echo "$(($(cat /tmp/sent-* | paste -sd+))) pushes were accepted"
until_true 60 "all is routed" sh -c '[ -z "$(ls /var/lib/durhack-deployer/queues/main)" ]'
deployer verify || fail "verify finds breaches"
for _ in 1 2 3 4 5; do systemctl restart "$unit"; done
runs "$commit" || fail "after restarts it runs $(readlink "/proc/$(main_pid)/exe")"
say "ok"
