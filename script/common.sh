# Sourced by the other scripts: where the server is, and how to run as somebody
# who may start one.

root=${root:-$(cd "$(dirname "$0")/.." && pwd)}

if [ -z "${PG_CONFIG:-}" ]; then
    version=${PG_VERSION:-$(ls /usr/lib/postgresql 2>/dev/null | sort -n | tail -n 1)}
    PG_CONFIG=/usr/lib/postgresql/${version:-15}/bin/pg_config
    [ -x "$PG_CONFIG" ] || PG_CONFIG=pg_config
fi
export PG_CONFIG
bindir=$("$PG_CONFIG" --bindir 2>/dev/null || true)

sudo=
[ "$(id -u)" = 0 ] || sudo=sudo

# Build and install the extension, warnings being errors.
build() {
    make -s -C "$root" WERROR=1 PG_CONFIG="$PG_CONFIG" -j "$(nproc)" &&
        $sudo make -s -C "$root" WERROR=1 PG_CONFIG="$PG_CONFIG" install
}

# A server refuses to run as root: as root, drop to the user postgres.
as_server_user() {
    if [ "$(id -u)" = 0 ]; then
        runuser -u postgres -- env PATH="$bindir:$PATH" "$@"
    else
        env PATH="$bindir:$PATH" "$@"
    fi
}

# A scratch directory that the server's user can write to.
make_scratch() {
    scratch=$(mktemp -d "${TMPDIR:-/tmp}/pg_fanout.XXXXXX")
    chmod 755 "$scratch"
    [ "$(id -u)" != 0 ] || chown postgres "$scratch"
}
