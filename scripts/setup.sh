#!/bin/sh
# Prepare this folder for a make target: Python in .venv, and system packages that are missing.
#
#   scripts/setup.sh demo|test|bench|develop
#
# For Debian 12 and Ubuntu 24.04 or newer; elsewhere it names what is missing. Needs no input unless sudo asks.
set -eu
cd "$(dirname "$0")/.."
PATH="${PATH:-/usr/bin:/bin}:/usr/sbin:/sbin" # where Debian keeps ip and iptables; a user's PATH lacks both
export PATH PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '%s\n' "$*" >&2; }
die() { say "set-up: $*"; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

case "${1:-}" in
demo | test | bench | develop) purpose=$1 ;;
*) say "usage: scripts/setup.sh demo|test|bench|develop"; exit 2 ;;
esac

install_packages() {
    has apt-get || die "these are missing: $*. Install them with your package manager (the names are Debian's) and run this again."
    if [ "$(id -u)" = 0 ]; then
        as_root=
    elif has sudo; then
        as_root=sudo
    else
        die "these packages are missing: $*. Without root and sudo they cannot be installed from here; run as root: apt-get install $*"
    fi
    say "set-up: installing $*"
    case " $* " in *" nginx-light "* | *" haproxy "*) keep_services_down ;; esac
    { $as_root apt-get -qq -o DPkg::Lock::Timeout=120 update &&
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=120 \
            install --no-install-recommends "$@" </dev/null >/dev/null; } ||
        die "these packages could not be installed: $*. See apt-get's message above."
}

# nginx and HAProxy are wanted as programs: their packages would have them listen on this machine at once.
keep_services_down() {
    policy=/usr/sbin/policy-rc.d
    [ ! -e $policy ] || return 0
    trap '$as_root rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null
    $as_root chmod 755 $policy
    say "set-up: nginx and haproxy are not started now; to keep them down after a reboot: systemctl disable nginx haproxy"
}

# Python 3.11 or newer: the one that is asked for, the usual one, or one that stands beside it.
is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
find_python() {
    for candidate in "${PYTHON:-}" python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11; do
        if [ -n "$candidate" ] && is_new_enough "$candidate"; then
            python=$candidate
            return
        fi
    done
    return 1
}
if ! find_python; then
    has python3 || install_packages python3 python3-venv
    find_python || die "Python 3.11 or newer is needed, and only $(python3 --version 2>&1) is here. Install one, and name it with PYTHON=."
fi

# The programs that the agent, the demo and the tests run, and the packages they are in.
missing=
need() { has "$1" || missing="$missing $2"; }
need ip iproute2
need iptables iptables
need curl curl
need dig bind9-dnsutils
[ "$purpose" = demo ] || need conntrack conntrack
if [ "$purpose" = test ] || [ "$purpose" = develop ]; then
    need nft nftables
    need openssl openssl
fi
if [ "$purpose" = bench ] || [ "$purpose" = develop ]; then
    need nginx nginx-light
    [ -e /usr/lib/nginx/modules/ngx_stream_module.so ] || missing="$missing libnginx-mod-stream"
    need haproxy haproxy
    need wrk wrk
    need iperf3 iperf3
    need strace strace
    need cc "gcc libc6-dev"
fi

version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
if ! "$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then
    missing="$missing $version-venv"
fi
# shellcheck disable=SC2086 # a list of words
[ -z "$missing" ] || install_packages $missing

if ! is_new_enough .venv/bin/python || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    say "set-up: making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv || die "$python could not make a virtual environment. See its message above."
fi

stamp=.venv/set-up-for-$purpose
wanted=$({ pwd; cat pyproject.toml scripts/setup.sh; } | cksum)
[ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || exit 0
[ -w .venv ] || die ".venv belongs to $(stat -c %U .venv), who made it. Run this as that user, or remove it."

# python-iptables is published as source: a compiler and Python's headers, unless pip has it built somewhere.
has_compiler() {
    has cc && .venv/bin/python -c 'import pathlib, sys, sysconfig
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())'
}
is_installable_without_compiler() {
    .venv/bin/python -c 'import iptc' 2>/dev/null ||
        .venv/bin/python -m pip install --quiet --dry-run --no-deps --only-binary :all: python-iptables >/dev/null 2>&1
}
if ! has_compiler && ! is_installable_without_compiler; then
    install_packages gcc libc6-dev "$version-dev"
    has_compiler || die "$python has no headers (Python.h), which python-iptables is built with. Name another Python with PYTHON=."
fi

case $purpose in
demo) say "set-up: installing the package into .venv" && set -- --editable '.[demo]' ;;
test) say "set-up: installing tox into .venv" && set -- "tox>=4.23" ;;
bench) say "set-up: installing the package and what draws into .venv" && set -- --editable '.[bench]' ;;
develop) say "set-up: installing the package and the tools into .venv" && set -- --editable '.[bench,lint,test]' "tox>=4.23" "pre-commit>=4" build ;;
esac
.venv/bin/python -m pip install --quiet --use-pep517 "$@" </dev/null || die "pip failed. See its message above."

# Out of a package the rest of which is a server. Whoever has no such package has two tests less, which say so.
fetch_promtool() (
    folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT && cd "$folder" &&
        apt-get -qq download prometheus && dpkg-deb --fsys-tarfile prometheus_*.deb | tar -xO ./usr/bin/promtool >promtool &&
        install -m 755 promtool "$OLDPWD/.venv/bin/promtool"
)
if [ "$purpose" = test ] || [ "$purpose" = develop ]; then
    has promtool || [ -x .venv/bin/promtool ] || fetch_promtool >/dev/null 2>&1 ||
        say "set-up: promtool cannot be fetched out of the package prometheus; two tests are skipped"
fi
printf '%s\n' "$wanted" >"$stamp"
