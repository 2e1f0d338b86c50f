#!/bin/bash
# What test.sh runs in the box, as root: install as docs/operations.md says, and
# see the unit start, deploy, restart under load without refusing a push, come
# back after kill -9 (idle and in the middle of a deploy), and stop without
# leaving anything.

configure <<TOML
[deployments.hello]
repository = "durhack/hello"
branch = "main"
remote = "$repo"
path = "/srv/www/hello"

[[deployments.hello.steps]]
name = "think"
run = ["sh", "-c", "if [ -e slow ]; then sleep 5; fi"]

[[deployments.hello.steps]]
name = "publish"
run = ["cp", "index.html", "/srv/www/live.html"]
TOML

say "configure and start, and a push goes live"
deploys box-1 one
goes_live box-1 one

say "the secret as a credential, which only root and the unit can read"
sed -i /webhook_secret_file/d /etc/durhack-deployer/deployer.toml
chmod 600 /etc/durhack-deployer/webhook-secret
chgrp root /etc/durhack-deployer/webhook-secret
mkdir "/etc/systemd/system/$unit.d"
printf '[Service]\nLoadCredential=webhook_secret:/etc/durhack-deployer/webhook-secret\n' > "/etc/systemd/system/$unit.d/secret.conf"
systemctl daemon-reload
systemctl restart "$unit"

say "kill -9: systemd brings it back, and the next push goes live"
kill_main
deploys box-2 two
goes_live box-2 two

say "kill -9 in the middle of a deploy: it is interrupted and retried"
deploys box-3 three slow
until_true 60 "box-3 started" has_event box-3 started
kill_main
goes_live box-3 three
has_event box-3 interrupted || fail "box-3 has no interrupted event"
deployer log
deployer status
deployer verify || fail "verify finds breaches"

say "verify as its timer runs it"
docs verify
systemd-analyze verify /etc/systemd/system/durhack-deployer-verify.service /etc/systemd/system/durhack-deployer-verify.timer 2>&1 | tee /tmp/verify
[ ! -s /tmp/verify ] || fail "systemd-analyze verify has complaints"
systemctl is-active -q durhack-deployer-verify.timer || fail "the timer does not wait"
rm /var/lib/durhack-deployer/verified.json # of the verify by hand
systemctl start durhack-deployer-verify.service || fail "verify by systemd: $(journalctl --no-pager -u durhack-deployer-verify -n 20)"
journalctl --no-pager -u durhack-deployer-verify -n 20
[ "$(stat -c '%U' /var/lib/durhack-deployer/verified.json)" = "$user" ] || fail "verify by systemd has not kept what it found"

restarts=$(systemctl show --value -p NRestarts "$unit")
[ "$restarts" = 2 ] || fail "it was restarted $restarts times, but killed twice"

say "20 restarts under load, the first with a running step: no push is refused"
deploys box-restart slowly slow
until_true 60 "box-restart started" has_event box-restart started
sign durhack/elsewhere "$commit"
for client in 1 2 3 4 5 6 7 8; do hammer $client & done
for _ in $(seq 20); do systemctl restart "$unit" || fail "a restart failed"; done
touch /tmp/enough
wait
refused=$(cat /tmp/refused-* 2> /dev/null) || true
[ -z "$refused" ] || fail "refused: $refused"
echo "$(($(cat /tmp/sent-* | paste -sd+))) pushes were accepted"
goes_live box-restart slowly
deployer verify || fail "verify finds breaches after the restarts"

say "a restart with a configuration that is refused: the last good one"
echo 'unknown = 1' > /etc/durhack-deployer/zz.toml
chmod 644 /etc/durhack-deployer/zz.toml
systemctl restart "$unit" || fail "it does not start with the last good configuration"
deploys box-refused refused
rm /etc/durhack-deployer/zz.toml # commands do not go by the last good one
goes_live box-refused refused
journalctl --no-pager -u "$unit" | grep 'the configuration is refused' > /dev/null || fail "the log does not say that the configuration was refused"
systemctl restart "$unit"

say "stop: clean, and nothing is left"
systemctl stop "$socket" "$unit"
# ExecMainCode 1 is CLD_EXITED: it ended by itself.
result=$(systemctl show -p Result -p ExecMainCode -p ExecMainStatus "$unit" | sort | paste -sd' ')
[ "$result" = "ExecMainCode=1 ExecMainStatus=0 Result=success" ] || fail "the stop was not clean: $result"
if pgrep -u "$user" -a; then fail "the processes above are left"; fi
cgroup=/sys/fs/cgroup/system.slice/$unit
[ ! -e "$cgroup" ] || [ ! -s "$cgroup/cgroup.procs" ] || fail "the unit's cgroup is not empty"
if journalctl -u "$unit" _PID=1 --no-pager -n 3 | grep -i kill; then fail "systemd had to kill something at the stop"; fi

say "what was recorded is there when nothing runs"
deployer verify || fail "verify finds breaches after the stop"
if pgrep -u "$user" -a; then fail "a command left the private Postgres running"; fi

say "listen and work as two users"
docs listener
rm "/etc/systemd/system/$unit.d/secret.conf" # only the listener needs it
(umask 027; printf 'state_dir = "/var/lib/durhack-deployer"\nwebhook_secret_token = "%s"\n' "$secret" > /etc/durhack-listener/listener.toml)
chgrp durhack-listener /etc/durhack-listener/listener.toml
systemd-analyze verify /etc/systemd/system/durhack-listener.service /etc/systemd/system/durhack-listener.socket "/etc/systemd/system/$unit" 2>&1 | tee /tmp/verify
[ ! -s /tmp/verify ] || fail "systemd-analyze verify has complaints"
systemctl daemon-reload
systemctl enable -q --now durhack-listener.socket durhack-listener.service || fail "the listener does not start"
git_commit four
push "$commit" box-4 # nobody works yet: it waits
deployer queue list | grep box-4 > /dev/null || fail "box-4 does not wait in the main queue"
docs 'start the listener'
goes_live box-4 four
as_listener() { runuser -u durhack-listener -- "$@" > /dev/null 2>&1; }
for secret_thing in /var/lib/durhack-deployer /var/lib/durhack-deployer/runs /var/lib/durhack-deployer/postgres /etc/durhack-deployer; do
  if as_listener ls "$secret_thing"; then fail "the listener's user can look into $secret_thing"; fi
done
deployer verify || fail "verify finds breaches with two users"
[ "$(stat -c '%U %a' /var/lib/durhack-listener/last-good-listen*.json)" = "durhack-listener 600" ] || fail "the listener keeps no configuration"
systemctl stop durhack-listener.socket durhack-listener.service "$unit"
for u in durhack-listener.service "$unit"; do
  [ "$(systemctl show --value -p Result "$u")" = success ] || fail "the stop of $u was not clean"
done

say "another database, by peer authentication, beside the private one with its events"
docs peer
export DATABASE_URL='postgres:///durhack_deployer?host=/run/postgresql'
deployer migrate || fail "the role cannot migrate"
deployer doctor > /tmp/doctor || true
grep -q '^warn .*the log of database_url is empty, but the private Postgres in /var/lib/durhack-deployer/postgres holds' /tmp/doctor ||
  fail "doctor does not tell of the other log: $(cat /tmp/doctor)"
