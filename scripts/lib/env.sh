# Sourced by the scripts beside it. `need [EXTRA]...` leaves ./.venv with this project and the extras.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=$root/.venv/bin/python

fail() { echo "$*" >&2; exit 1; }

suitable_python() {
    local name
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        "$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
            >/dev/null 2>&1 && { echo "$name"; return; }
    done
    fail "chainlora needs Python 3.11 or later with venv, and found none on PATH." \
        "Install one (Debian and Ubuntu: apt install python3.11-venv; Mac: brew install python)."
}

# MLX's CUDA and CPU wheels carry the same mlx/lib/libmlx.so: take the CPU one out, write the other anew.
use_cuda_where_present() {
    local driver
    driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1) || return 0
    [ -n "$driver" ] || return 0
    if [ "${driver%%.*}" -lt 580 ]; then
        echo "NVIDIA driver $driver is older than 580, which CUDA 13 needs: using the CPU." >&2
        return 0
    fi
    "$python" -m pip install -q -c "$root/constraints.txt" -e "$root[cuda]"
    "$python" -m pip uninstall -q -y mlx-cpu
    "$python" -m pip install -q -c "$root/constraints.txt" --no-deps --force-reinstall mlx-cuda-13
}

need() {
    local extras found stamp key compile=--compile
    extras=$(IFS=,; echo "$*")
    if ! "$python" -c '' 2>/dev/null; then
        found=$(suitable_python)
        "$found" -m venv --clear "$root/.venv"
    fi
    stamp=$root/.venv/installed-${extras:-base}
    key="$root $("$python" -V) $(cat "$root/pyproject.toml" "$root/constraints.txt" | cksum)"
    [ "$(cat "$stamp" 2>/dev/null)" = "$key" ] && return
    echo "Installing chainlora${extras:+ with $extras} into .venv" >&2
    [ -n "$extras" ] || compile=--no-compile # a third of the time until the first answer
    "$python" -m pip install -q $compile -c "$root/constraints.txt" -e "$root${extras:+[$extras]}"
    use_cuda_where_present
    echo "$key" > "$stamp"
}

# need_apart NAME PINS leaves .cache/NAME with the packages of the file PINS, for tests against programs
# of others: apart, as some change how transformers works. Fails where they cannot be installed.
need_apart() {
    local home=$root/.cache/$1 pins=$root/$2 key
    key="$("$python" -V) $(cksum < "$pins")"
    [ "$(cat "$home/installed" 2>/dev/null)" = "$key" ] && return
    echo "Installing $2 into .cache/$1" >&2
    "$python" -m venv --clear "$home" &&
        "$home/bin/python" -m pip install -q -r "$pins" &&
        echo "$key" > "$home/installed"
}

# Leaves .cache/owners-node with OpenAI's client of Node, by the lock file. Fails where that cannot be.
need_owners_node() {
    local home=$root/.cache/owners-node pins=$root/tests/owners/node key
    command -v node >/dev/null && command -v npm >/dev/null || return 1
    key="$(node --version) $(cksum < "$pins/package-lock.json")"
    [ "$(cat "$home/installed" 2>/dev/null)" = "$key" ] && return
    echo "Installing OpenAI's client of Node into .cache/owners-node" >&2
    rm -rf "$home" && mkdir -p "$home" && cp "$pins"/package*.json "$home" &&
        npm ci --silent --prefix "$home" &&
        echo "$key" > "$home/installed"
}
