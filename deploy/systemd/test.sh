#!/bin/bash
# Run the unit under a real systemd: deploy/systemd/test.sh [CACHE_DIR]
#
# Builds the static binary, boots a throw-away Debian with it (by
# systemd-box.sh, which is looked for in ../shared/tools, or as SYSTEMD_BOX
# says), and runs test-in-box.sh there. Needs root. CACHE_DIR keeps the Debian
# tree between runs.
set -euo pipefail
cd "$(dirname "$0")/../.."
box=${SYSTEMD_BOX:-../shared/tools/systemd-box.sh}
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/durhack-deployer/systemd-box}
[ -x "$box" ] || { echo "deploy/systemd/test.sh: there is no $box; set SYSTEMD_BOX" >&2; exit 1; }

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
CGO_ENABLED=0 go build -trimpath -o "$tmp/durhack-deployer" ./cmd/durhack-deployer

export BOX_PACKAGES=systemd-sysv,dbus,libnss-systemd,curl,ca-certificates,openssl,procps,git,postgresql
"$box" -t 400 \
  -c "$tmp/durhack-deployer:/usr/local/bin/durhack-deployer" \
  -c "$PWD/deploy/systemd/durhack-deployer.service:/etc/systemd/system/durhack-deployer.service" \
  -c "$PWD/deploy/systemd/durhack-deployer.socket:/etc/systemd/system/durhack-deployer.socket" \
  -c "$PWD/deploy/sysusers.d/durhack-deployer.conf:/etc/sysusers.d/durhack-deployer.conf" \
  -c "$PWD/deploy/tmpfiles.d/durhack-deployer.conf:/etc/tmpfiles.d/durhack-deployer.conf" \
  -c "$PWD/deploy:/root/deploy" \
  "$cache" -- bash /root/deploy/systemd/test-in-box.sh
