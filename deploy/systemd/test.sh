#!/bin/bash
# Run the units under a real systemd: deploy/systemd/test.sh [CACHE_DIR [SCRIPT...]]
#
# Builds the binary as docs/operations.md says, boots a throw-away Debian that has
# the packages which docs/ names (by systemd-box.sh, which is looked for in
# ../shared/tools, or as SYSTEMD_BOX says), and runs each SCRIPT there (default: all
# of test*-in-box.sh), which run the other lines of the documents. Needs root. CACHE_DIR
# keeps the Debian tree between runs.
set -euo pipefail
cd "$(dirname "$0")/../.."
box=${SYSTEMD_BOX:-../shared/tools/systemd-box.sh}
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/durhack-deployer/systemd-box}
[ -x "$box" ] || { echo "deploy/systemd/test.sh: there is no $box; set SYSTEMD_BOX" >&2; exit 1; }

. deploy/systemd/lines.sh
docs_lines install > /dev/null # or there is none
eval "$(docs_lines install | grep ' go build ')"
packages=$({ docs_lines install; docs_lines nginx docs/handlers/nginx.md; } | sed -n 's/^apt-get install -y --no-install-recommends //p' | xargs | tr ' ' ,)
[ -n "$packages" ] || { echo "deploy/systemd/test.sh: the documents name no packages" >&2; exit 1; }

# A bare system, what the documents name, and for the tests themselves curl, pgrep and sudo.
export BOX_PACKAGES=systemd-sysv,dbus,$packages,curl,procps,sudo
# Our own successor, as a deployer builds it but for the commit, which is filled in there.
next=$(mktemp -d) said=$(mktemp -d)
chmod 755 "$next" # the deployer reads it
trap 'kill $(jobs -p) 2> /dev/null || true; wait; rm -rf "$next" "$said"' EXIT
CGO_ENABLED=0 go build -trimpath -ldflags "-X main.commit=$(printf 'c%.0s' {1..40})" -o "$next/" ./cmd/durhack-deployer
# A CA, and the names that it asks for.
(cd integration/pebble && CGO_ENABLED=0 go build -o "$next/" github.com/letsencrypt/pebble/v2/cmd/pebble github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv)
shift || true
[ $# -gt 0 ] || set -- deploy/systemd/test*-in-box.sh
# All at once, for they mostly wait; what each says is printed in one piece.
pids=() status=0 n=0
for script; do
  "$box" -t 400 \
    -c "$PWD/bin:/root/checkout/bin" \
    -c "$PWD/deploy:/root/checkout/deploy" \
    -c "$PWD/docs:/root/checkout/docs" \
    -c "$next:/opt/next" \
    "$cache" -- bash /root/checkout/deploy/systemd/box.sh "$script" > "$said/$(basename "$script")" 2>&1 &
  pids+=($!)
done
for script; do
  wait "${pids[n++]}" || status=1
  echo "==== $script"
  cat "$said/$(basename "$script")"
done
exit $status
