#!/bin/bash
# The deployer deploys itself in the box, as root: a good version, one that is killed in
# its probation, kill -9 between each two steps and in the switch, one that ends at once, one that hangs before it is up, one that does not
# take the configuration; pushes are accepted all the while.

# There is no Go in the box: this "builds" what the commit's index.html says.
install -d /opt/fake
cat > /opt/fake/go <<'FAKE'
#!/bin/sh
set -e
[ "$1 $2 $3 $5 $7" = "build -trimpath -ldflags -o ./cmd/durhack-deployer" ] || exit 2
commit=${4#*main.commit=} out=$6/durhack-deployer kind=$(cat index.html)
case $kind in
  good*) LC_ALL=C sed "s/c\{40\}/$commit/" /opt/next/durhack-deployer > "$out" ;;
  stops*)
    /opt/fake/gate build
    LC_ALL=C sed "s/c\{40\}/$commit/" /opt/next/durhack-deployer > "$6/real"
    chmod 755 "$6/real"
    cat > "$out" <<'PROGRAM'
#!/bin/sh
real=$(dirname "$(readlink -f "$0")")/real
/opt/fake/gate "$1"
[ "$1" = doctor ] || exec "$real" "$@"
"$real" "$@"
status=$?
/opt/fake/gate switch
exit $status
PROGRAM
    ;;
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
# A step stands still at the gate that the file names.
install -d -m 777 /srv/gate
cat > /opt/fake/gate <<'FAKE'
#!/bin/sh
[ "$(cat /srv/gate/at 2> /dev/null)" = "$1" ] || exit 0
touch /srv/gate/reached
sleep 1000
FAKE
cat > /opt/fake/git <<'FAKE'
#!/bin/sh
for word; do [ "$word" != checkout ] || /opt/fake/gate checkout; done
exec /usr/bin/git "$@"
FAKE
chmod 755 /opt/fake/* /opt/next/durhack-deployer

configure <<TOML
executable_search_paths = ["/opt/fake"]

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

probation=/var/lib/durhack-deployer/self/probation.json
current() { basename "$(readlink /opt/durhack-deployer/current)"; }
# runs VERSION says whether the daemon is of that version.
runs() { case $(readlink "/proc/$(main_pid)/exe") in */releases/"$1"/*) ;; *) return 1 ;; esac; }

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
hammer 1 2 &

say "a good version"
deploys self-1 good
first=$commit
ends self-1 deployed
runs "$first" || fail "it runs $(readlink "/proc/$(main_pid)/exe")"
deployer logs self-1 | grep 'switched from first to' > /dev/null || fail "the run log: $(deployer logs self-1)"
until_true 10 "the probation is over" test ! -e $probation

say "one that is killed in its probation, twice"
deploys self-2 good2
second=$commit
for _ in 1 2; do
  until_true 60 "the switch" runs "$second"
  kill_main
done
ends self-2 deployed
runs "$second" || fail "it runs $(readlink "/proc/$(main_pid)/exe")"

say "kill -9 between each two steps: what ran goes on, and each attempt has one end"
n=0
for gate in checkout build version migrate switch; do
  n=$((n + 1))
  rm -f /srv/gate/reached
  echo $gate > /srv/gate/at
  deploys self-kill-$n "stops $n"
  until_true 60 "the gate $gate" test -e /srv/gate/reached
  kill_main
  ends self-kill-$n failed
  has_event self-kill-$n interrupted || fail "the end of self-kill-$n: $(cat /tmp/end-self-kill-$n)"
  [ "$(current)" = "$second" ] && runs "$second" || fail "after a kill at $gate current is $(current), and it runs $(readlink "/proc/$(main_pid)/exe")"
done
rm /srv/gate/at

say "kill -9 in the switch: either version, and one end"
for n in 6 7; do
  until_true 60 "no probation" test ! -e $probation
  pid=$(main_pid)
  deploys self-kill-$n "stops $n"
  end=$((SECONDS + 60))
  until [ -e $probation ] || [ $SECONDS -ge $end ]; do :; done
  kill -9 "$pid" || true # it may have made way already
  until_true 100 "the end of self-kill-$n" ended self-kill-$n
  runs "$(current)" || fail "current is $(current), and it runs $(readlink "/proc/$(main_pid)/exe")"
done
for n in 1 2 3 4 5 6 7; do
  ended self-kill-$n
  [ "$(wc -l < /tmp/end-self-kill-$n) $(deployer log --json --delivery self-kill-$n --type started | wc -l)" = "1 1" ] || fail "self-kill-$n: $(deployer log --delivery self-kill-$n)"
done
second=$(current)

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
