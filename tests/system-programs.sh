#!/bin/sh
# Installs the system programs that tests use, on Debian, as root. `make test-deps` calls it.
set -eu
policy=/usr/sbin/policy-rc.d
missing=
for needed in curl strace faketime ip:iproute2 nsenter:util-linux nginx:nginx-light haproxy wrk slowhttptest \
    debootstrap systemd-nspawn:systemd-container checkbashisms:devscripts shellcheck zsh mandoc; do
    # program:package, where they differ
    command -v "${needed%%:*}" >/dev/null 2>&1 || missing="$missing ${needed##*:}"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "missing:$missing (install them with your package manager; tests that use them are skipped)" >&2
    [ "${CI:-}" = true ] && exit 1
    exit 0
fi
if [ ! -e "$policy" ]; then # tests start their own; a server that comes with a package is not to take port 80
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
apt-get update -qq
# shellcheck disable=SC2086 # one word per package is meant
DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing
