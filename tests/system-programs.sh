#!/bin/sh
# Installs the system programs that tests use, on Debian, as root. `make test-deps` calls it.
set -eu
missing=
for needed in curl strace faketime ip:iproute2 nsenter:util-linux; do # program:package, where they differ
    command -v "${needed%%:*}" >/dev/null 2>&1 || missing="$missing ${needed##*:}"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "missing:$missing (install them with your package manager; tests that use them are skipped)" >&2
    [ "${CI:-}" = true ] && exit 1
    exit 0
fi
apt-get update -qq
# shellcheck disable=SC2086 # one word per package is meant
DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing
