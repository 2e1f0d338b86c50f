#!/bin/bash
# Steps of another user in the box, as root: an installation whose steps ran as the daemon's
# user becomes one whose steps can read nothing of the daemon's, with all that was there;
# what a killed daemon leaves of them is ended.

# hello LINE... configures the deployment, with these lines.
hello() {
  cat <<TOML
[deployments.hello]
repository = "durhack/hello"
branch = "main"
remote = "$repo"
path = "/srv/www/hello"
on_interrupt = "fail"
$(printf '%s\n' "$@")

[[deployments.hello.steps]]
name = "try"
run = ["sh", "-c", "rm -f who got; id -un > who; cat /var/lib/durhack-deployer/signer.key /etc/durhack-deployer/webhook-secret > got; ls -A /var/lib/durhack-deployer/postgres/run >> got; if [ -e slow ]; then echo \$\$ > pid; trap '' TERM; while :; do sleep 1; done; fi"]
TOML
}
# was WHO wants that to be who ran the steps.
was() { [ "$(cat /srv/www/hello/who)" = "$1" ] || fail "the steps ran as $(cat /srv/www/hello/who)"; }

say "steps of the daemon's user, which read all of it"
hello > less
configure < less
deploys user-1 one
ends user-1 deployed
was "$user"
[ "$(wc -l < /srv/www/hello/got)" -ge 3 ] || fail "it read: $(cat /srv/www/hello/got)"

say "another user is refused where the daemon is not root"
hello 'user = "app"' 'umask = "027"' > more
sed -i '/^\[deployments/,$d' deployer.toml
cat more >> deployer.toml
install -m 640 -g "$user" deployer.toml /etc/durhack-deployer/
if deployer config check 2> /tmp/check; then fail "it is accepted"; fi
grep -F 'unknown user app' /tmp/check || fail "config check says: $(cat /tmp/check)"
docs "another user"
if deployer config check 2> /tmp/check; then fail "it is accepted"; fi
grep -F 'only root can run programs as app, and this is durhack-deployer' /tmp/check || fail "config check says: $(cat /tmp/check)"

say "and root runs its steps, which read nothing"
deployer() { durhack-deployer "$@"; }
chown -R -h app: /srv/www/hello
deploy_as() { # deploy_as USER DELIVERY TEXT [SLOW]
  git_commit "${@:3}"
  chown -R "$1:" "$repo"
  push "$commit" "$2"
}
deploy_as app user-2 two
ends user-2 deployed
was app
[ ! -s /srv/www/hello/got ] || fail "it read: $(cat /srv/www/hello/got)"
[ "$(stat -c '%U %a' /srv/www/hello/got)" = "app 640" ] || fail "its file: $(stat -c '%U %a' /srv/www/hello/got)"
[ "$(stat -c %U /var/lib/durhack-deployer/signer.key)" = "$user" ] || fail "what was there is somebody else's now"
deployer doctor > /tmp/doctor || true
grep "no steps run as the daemon's user" /tmp/doctor || fail "doctor says: $(cat /tmp/doctor)"
if grep '^FAIL' /tmp/doctor; then fail "doctor says: $(cat /tmp/doctor)"; fi

say "kill -9 in a step that ignores TERM"
deploy_as app user-3 three slow
until_true 60 "the step" test -s /srv/www/hello/pid
pid=$(cat /srv/www/hello/pid)
kill_main
ends user-3 failed
if kill -0 "$pid" 2> /dev/null; then fail "process $pid is left"; fi

say "a path that is still to be made"
rm -rf /srv/www/hello
chown root: /srv/www
deploy_as app user-4 four
ends user-4 deployed
was app
deployer verify || fail "verify finds breaches"
systemctl stop "$socket" "$unit"
[ "$(systemctl show --value -p Result "$unit")" = success ] || fail "the stop was not clean"
