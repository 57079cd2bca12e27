#!/usr/bin/env bash
# Put everything that the Makefile needs into .venv: missing Debian packages, PyTorch, this package, its tools.
# Safe to run again: it returns at once unless pyproject.toml, this file or the place of the checkout changed.
# PYTHON=python3.12 scripts/setup.sh picks the interpreter; with --browser it also gets Chromium, for the tests of pages.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/.set-up
fingerprint=$(cat pyproject.toml scripts/setup.sh scripts/requirements_without.py <(pwd) | sha256sum)
is_set_up() { [[ -x .venv/bin/vla-cl && -f $stamp && $(<"$stamp") == "$fingerprint" ]]; }
needs_browser=false
if [[ ${1-} == --browser ]] && ! command -v chromium >/dev/null; then needs_browser=true; fi
if is_set_up && ! $needs_browser; then exit 0; fi

step="starting"
say() { step=$1; printf '\033[1m[set-up]\033[0m %s\n' "$1"; }
fail() { printf 'error: %s\n' "$1" >&2; trap - ERR; exit 1; }
trap 'fail "set-up stopped while: $step (the reason is above; mend it and run the same command again)"' ERR

# --- Python ------------------------------------------------------------------------------------------------

is_supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.12 python3 /usr/bin/python3.11 /usr/bin/python3.12 /usr/bin/python3}; do
        if command -v "$candidate" >/dev/null && is_supported "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

# --- Debian packages ---------------------------------------------------------------------------------------

as_root=()
may_install=false
if command -v apt-get >/dev/null; then
    if [[ $(id -u) == 0 ]]; then
        may_install=true
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        may_install=true
        as_root=(sudo -n env DEBIAN_FRONTEND=noninteractive)
    fi
fi

# Install Debian packages when we may; otherwise, or when that fails, print the one line that does. Never fatal.
install_packages() {
    local line="apt-get install -y --no-install-recommends $*"
    if $may_install; then
        say "installing Debian packages: $*"
        export DEBIAN_FRONTEND=noninteractive
        if "${as_root[@]}" apt-get install -y -q --no-install-recommends "$@" >/dev/null 2>&1; then return; fi
        "${as_root[@]}" apt-get update -q >/dev/null 2>&1 || true
        if "${as_root[@]}" apt-get install -y -q --no-install-recommends "$@"; then return; fi
        echo "warning: could not install them; going on without. To try by hand: sudo $line" >&2
    elif command -v apt-get >/dev/null; then
        echo "warning: missing Debian packages, going on without. To install them: sudo $line" >&2
    else
        echo "warning: missing system packages (Debian calls them: $*); going on without" >&2
    fi
}

if $needs_browser; then install_packages chromium; fi  # without it those tests are skipped
if is_set_up; then exit 0; fi

has_library() { ldconfig -p 2>/dev/null | grep -q "$1" || compgen -G "/usr/lib/*/$1" >/dev/null; }

can_draw() {  # software or hardware OpenGL without a display
    has_library 'libOSMesa.so' && return 0
    has_library 'libEGL.so.1' || return 1
    has_library 'libEGL_nvidia.so' || compgen -G '/usr/lib/*/dri/*_dri.so' >/dev/null
}

can_compile() {  # what evdev's source needs: a compiler, the headers of Python and of the kernel
    command -v cc >/dev/null || command -v gcc >/dev/null || return 1
    local headers
    headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    [[ -f $headers/Python.h && -f /usr/include/linux/input.h ]]
}

say "looking for Python 3.11 or 3.12"
if ! python=$(find_python); then
    for version in 3.11 3.12; do
        if $may_install && apt-cache show "python$version" >/dev/null 2>&1; then
            install_packages "python$version" "python$version-venv" "python$version-dev"
            break
        fi
    done
    python=$(find_python) || fail "no Python 3.11 or 3.12 here; install one (Debian: python3.11 and python3.11-venv) or name it: PYTHON=/path/to/python3.12"
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

packages=()
can_draw || packages+=(libegl1 libgl1-mesa-dri)
has_library 'libGL.so.1' || packages+=(libgl1)
if ! can_compile; then
    packages+=(gcc libc6-dev)
    [[ $("$python" -c 'import sys; print(sys.base_prefix)') == /usr ]] && packages+=("python$version-dev")
fi
"$python" -c 'import ensurepip, venv' 2>/dev/null || packages+=("python$version-venv")
((${#packages[@]} == 0)) || install_packages "${packages[@]}"

# --- Python packages ---------------------------------------------------------------------------------------

if [[ ! -x .venv/bin/python ]] || ! is_supported .venv/bin/python; then
    say "creating .venv with $python ($version)"
    if "$python" -c 'import ensurepip' 2>/dev/null; then
        "$python" -m venv --clear .venv
    elif command -v uv >/dev/null; then
        uv venv --quiet --clear --seed --python "$python" .venv
    elif command -v virtualenv >/dev/null; then
        virtualenv --quiet --clear --python "$python" .venv
    else
        fail "cannot create a virtual environment; run: sudo apt-get install -y python$version-venv"
    fi
fi
pip=(.venv/bin/python -m pip --disable-pip-version-check)

say "installing PyTorch (the largest part)"
"${pip[@]}" install "torch==2.13.0"

if can_compile || .venv/bin/python -c 'import evdev' 2>/dev/null; then
    say "installing vla_cl, its dependencies and its tools"
    "${pip[@]}" install --editable '.[dev]'
else
    # robosuite asks for pynput, for keyboard teleoperation, and pynput for evdev, which comes as source only.
    # Nothing here teleoperates: without a compiler, install everything but those two.
    say "installing vla_cl, its dependencies and its tools (no compiler: leaving out pynput and evdev)"
    .venv/bin/python scripts/requirements_without.py robosuite dev >.venv/requirements.txt
    "${pip[@]}" install --requirement .venv/requirements.txt "mink==0.0.5" "numba" "opencv-python" "termcolor" "tqdm"
    "${pip[@]}" install --no-deps "robosuite==1.5.2"
    "${pip[@]}" install --no-deps --editable .
fi

say "checking what was installed"
.venv/bin/vla-cl doctor || echo "warning: something above is not as it should be; see how to mend it" >&2
printf '%s\n' "$fingerprint" >"$stamp"
say "done: . .venv/bin/activate, or call .venv/bin/vla-cl"
