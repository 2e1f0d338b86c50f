#!/bin/bash
# The helper in the box, as root: an app that is a unit of systemd is deployed and
# restarted with one line of configuration and one of helper.toml; what no rule
# names, strangers and hostile names are refused; sudo is the way without systemd.

rules=/etc/durhack-deployer/helper.toml
socket_file=/run/durhack-deployer/helper.sock

cat > /etc/systemd/system/app.service <<'UNIT'
[Service]
# What is live is what it was started with.
ExecStart=/bin/sh -c 'grep -v broken /srv/www/app/index.html > /run/app.live || exit 3; exec sleep infinity'
Type=exec
ExecStartPost=/bin/sh -c 'until [ -s /run/app.live ]; do kill -0 $MAINPID || exit 1; sleep 0.1; done'
UNIT
cp /etc/systemd/system/app.service /etc/systemd/system/other.service
configure <<TOML
[deployments.app]
repository = "durhack/hello"
branch = "main"
remote = "$repo"
path = "/srv/www/app"
handler = "command"
restart = ["app.service"]
TOML
echo 'restart = ["app.service"]' > helper.toml

# app_runs TEXT says whether that is what the app was started with.
app_runs() { [ "$(cat /run/app.live 2> /dev/null)" = "$1" ]; }
# as USER REQUEST sends a line to the helper, and prints its answer.
as() {
  runuser -u "$1" -- perl -MIO::Socket::UNIX -e '
    my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die "connect: $!\n";
    print $s "$ARGV[1]\n"; $s->flush; print while <$s>' "$socket_file" "$2"
}
# refused USER REQUEST WORDS sends a line that is refused with these words.
refused() {
  local said
  said=$(as "$1" "$2" 2>&1) || true
  case $said in *'"output"'*) fail "as $1, $2 did something: $said" ;; esac
  case $said in *"$3"*) ;; *) fail "as $1, $2 was answered: $said" ;; esac
}

say "an app that is a unit is deployed and restarted"
docs helper
systemd-analyze verify /etc/systemd/system/durhack-deployer-helper.socket /etc/systemd/system/durhack-deployer-helper@.service 2>&1 | tee /tmp/verify
[ ! -s /tmp/verify ] || fail "systemd-analyze verify has complaints"
[ "$(stat -c '%U %a' "$socket_file")" = "$user 600" ] || fail "the socket: $(stat -c '%U %a' "$socket_file")"
deploys app-1 one
ends app-1 deployed
app_runs one || fail "the app runs $(cat /run/app.live)"
first=$(systemctl show --value -p MainPID app.service)
deploys app-2 two
ends app-2 deployed
app_runs two || fail "the app runs $(cat /run/app.live)"
[ "$(systemctl show --value -p MainPID app.service)" != "$first" ] || fail "it was not restarted"
deployer plan app | grep '^3  *restart app.service ' > /dev/null || fail "the plan: $(deployer plan app)"
deployer doctor > /tmp/doctor || true
grep '^ok *helper *root would do 1 thing$' /tmp/doctor || fail "doctor says: $(cat /tmp/doctor)"
journalctl --no-pager -t durhack-deployer-helper > /tmp/journal
grep 'msg=asked verb=restart args=\[app.service\] dry=false .* deployment=app delivery=app-2 actor=octocat' /tmp/journal > /dev/null || fail "root's journal: $(cat /tmp/journal)"
[ -z "$(systemctl list-units --no-legend --failed 'durhack-deployer-helper@*')" ] || fail "units of calls are left"

say "an app that does not start fails the deploy, and the run log says how it is"
deploys app-3 broken
ends app-3 failed
deployer log --json --delivery app-3 --type failed | grep '"step":"restart app.service","exit_code":1' > /dev/null || fail "the event is another"
deployer logs app-3 | grep 'status=3' > /dev/null || fail "the run log: $(deployer logs app-3)"
deploys app-4 four
ends app-4 deployed
app_runs four || fail "the app runs $(cat /run/app.live)"
# One that says nothing of its type is started for systemd as soon as it has a process.
cp /etc/systemd/system/app.service /tmp/app.service
for restarts in no always; do
  printf '[Service]\nRestart=%s\nRestartSec=100ms\nExecStart=/bin/sh -c "echo cannot find the database >&2; exit 3"\n' $restarts > /etc/systemd/system/app.service
  systemctl daemon-reload
  deploys app-4-$restarts "loops $restarts"
  ends app-4-$restarts failed
  failed_with app-4-$restarts 'app.service was restarted, and has '
  deployer logs app-4-$restarts | grep 'cannot find the database' > /dev/null || fail "the run log: $(deployer logs app-4-$restarts)"
done
cp /tmp/app.service /etc/systemd/system/
systemctl daemon-reload

say "what no rule names is refused"
sed -i 's/^restart = .*/restart = ["app.service", "other"]/' /etc/durhack-deployer/deployer.toml
systemctl restart "$unit"
deployer doctor > /tmp/doctor && fail "doctor is content"
grep '^FAIL *helper .*restart other.service is not allowed by /etc/durhack-deployer/helper.toml: if it should be, add "other.service" to restart' /tmp/doctor || fail "doctor says: $(cat /tmp/doctor)"
deploys app-5 five
ends app-5 failed
[ "$(systemctl is-active other.service)" = inactive ] || fail "other.service runs"
echo 'restart = ["app", "other.service"]' > "$rules"
deployer replay app-5 --reason "root allows it now" --yes || fail "no replay"
until_true 60 "app-5 deployed" has_event app-5 deployed
[ "$(systemctl is-active other.service)" = active ] || fail "other.service does not run"
refused "$user" '{"verb":"restart","args":["durhack-deployer.service"]}' 'is not allowed by'
echo 'restart = ["app.service", "durhack-deployer"]' > "$rules"
sed -i 's/^restart = .*/restart = ["durhack-deployer"]/' /etc/durhack-deployer/deployer.toml
systemctl restart "$unit"
deploys app-6 six
ends app-6 failed
deployer logs app-6 | grep 'would wait for its own end' > /dev/null || fail "the run log: $(deployer logs app-6)"

say "hostile names, other verbs, and what is no request"
for name in '../../etc/shadow' '-H root@elsewhere' 'app.service reboot.target' 'app.service\n' '*' '' 'app.service;reboot' '$(reboot)'; do
  refused "$user" "{\"verb\":\"restart\",\"args\":[\"$name\"]}" '"error":"restart takes the name of one unit"'
done
refused "$user" '{"verb":"sh","args":["-c","id"]}' 'there is no verb'
refused "$user" '{"verb":"certificate","args":["a.example.com","--pre-hook=reboot"]}' 'is not allowed by'
refused "$user" '{"verb":"restart","args":["app.service"],"env":{"A":"b"}}' ''
refused "$user" 'restart app.service' ''

say "a long argument begins no line of the journal"
forged='verb=restart args=[forged.service] uid=0 '
refused "$user" "{\"verb\":\"restart\",\"args\":[\"$(for _ in $(seq 1500); do printf '%s' "$forged"; done)\"]}" 'takes the name of one unit'
refused "$user" "{\"$(for _ in $(seq 1500); do printf '%s' "$forged"; done)\":1}" ''
journalctl --sync
journalctl --no-pager -o cat -t durhack-deployer-helper | grep forged | grep -v -e '^time=[^ ]* level=[A-Z]* msg=' -e '^durhack-deployer: read the request' && fail "lines of root's journal are forged"

say "a stranger"
refused nobody '{"verb":"restart","args":["app.service"]}' 'Permission denied'
chmod 666 "$socket_file"
refused nobody '{"verb":"restart","args":["app.service"]}' 'may not ask'
refused nobody '{"verb":"restart","args":["app.service"],"dry":true}' 'may not ask'
chmod 600 "$socket_file"

say "rules that others can write are no rules"
chmod 666 "$rules"
refused "$user" '{"verb":"restart","args":["app.service"]}' 'can be written by others than root'
chmod 644 "$rules"
chown "$user" "$rules"
refused "$user" '{"verb":"restart","args":["app.service"]}' 'does not belong to root'
chown root "$rules"

say "many calls at once are answered, and too many leave the socket in place"
# at_once CALLS asks so many times at once.
at_once() {
  local calls=() n
  for n in $(seq "$1"); do
    as "$user" '{"verb":"restart","args":["app.service"],"dry":true}' > "/tmp/call-$n" 2>&1 &
    calls+=($!)
  done
  wait "${calls[@]}" || true
}
at_once 40
[ "$(cat /tmp/call-* | grep -c '"done":true')" = 40 ] || fail "of 40 calls at once not all were answered: $(cat /tmp/call-*)"
at_once 150
systemctl is-active -q durhack-deployer-helper.socket || fail "the socket is gone"
as "$user" '{"verb":"restart","args":["app.service"],"dry":true}' | grep '"done":true' > /dev/null || fail "it does not answer any more"

say "without the socket: sudo, one exact call"
systemctl stop durhack-deployer-helper.socket
deployer doctor > /tmp/doctor && fail "doctor is content"
grep '^FAIL *helper .*no helper listens at' /tmp/doctor || fail "doctor says: $(cat /tmp/doctor)"
install -m 440 deploy/sudoers/durhack-deployer /etc/sudoers.d/
visudo -c || fail "visudo has complaints"
sed -i 's/^restart = .*/restart = ["app.service"]/' /etc/durhack-deployer/deployer.toml
printf '[helper]\ncommand = ["sudo", "-n", "/usr/local/bin/durhack-deployer", "helper"]\n' > /etc/durhack-deployer/zz-sudo.toml
deployer doctor > /tmp/doctor || true
grep '^ok *helper *root would do 1 thing$' /tmp/doctor || fail "doctor says: $(cat /tmp/doctor)"
for call in "helper --config /tmp/x" helper\ x status ""; do
  # shellcheck disable=SC2086
  if runuser -u "$user" -- sudo -n /usr/local/bin/durhack-deployer $call < /dev/null > /tmp/sudo 2>&1; then fail "sudo lets it call $call"; fi
  grep 'password is required' /tmp/sudo > /dev/null || fail "sudo $call: $(cat /tmp/sudo)"
done
useradd --system stranger
sed 's/^durhack-deployer ALL/stranger ALL/' deploy/sudoers/durhack-deployer > /etc/sudoers.d/stranger
said=$(echo '{"verb":"restart","args":["app.service"]}' | runuser -u stranger -- env SUDO_UID=0 sudo -n /usr/local/bin/durhack-deployer helper 2> /dev/null) || true
case $said in *'may not ask'*) ;; *) fail "a stranger by sudo: $said" ;; esac
