# shellcheck shell=bash
# Sourced by the scripts beside it: a virtual environment with the project in it, in .venv.
#
# venv_python is its Python after `prepare run`, `prepare bench` or `prepare test`. Programs are called through
# it (`python -m ...`): the first line of an installed script names a path that may be gone.

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
venv_python=$venv/bin/python

say() {
    printf '%s: %s\n' "$(basename -- "$0")" "$*" >&2
}

# prepare run|bench|test: make or mend the environment; does nothing where nothing has changed.
prepare() {
    local wanted=$1 what=$root state

    # Half-made, broken by an upgrade of Python, made by an old one: made anew.
    if ! "$venv_python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' \
        >/dev/null 2>&1; then
        make_venv
    fi

    # What an installation depends on. A path is part of it: editable installs hold one.
    state=$(CDPATH='' cd -- "$root" && {
        printf '%s\n' "$root"
        "$venv_python" -V
        cat setup.cfg pyproject.toml archibald_rt/__init__.py
    } | cksum)
    # Each holds what those before it need.
    case $wanted in
        run) installed run "$state" && return ;;&
        run | bench) installed bench "$state" && return ;;&
        *) installed test "$state" && return ;;
    esac
    [ "$wanted" = run ] || what="${root}[$wanted]"
    say "installing the project and what it needs into $venv"
    rm -f -- "$venv"/.installed-*
    "$venv_python" -m pip install -qq --disable-pip-version-check --no-input -e "$what"
    printf '%s\n' "$state" >"$venv/.installed-$wanted"
}

installed() {
    [ -f "$venv/.installed-$1" ] && [ "$(cat -- "$venv/.installed-$1")" = "$2" ]
}

make_venv() {
    local python
    python=$(command -v "${PYTHON:-python3}") || {
        say "no ${PYTHON:-python3} found: Python 3.11 or newer is needed"
        exit 1
    }
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        say "Python 3.11 or newer is needed, $python is $("$python" -V 2>&1 | head -n 1);" \
            "PYTHON=... names another"
        exit 1
    }
    "$python" -c 'import venv, ensurepip' >/dev/null 2>&1 || {
        say "$python has no venv module; on Debian and Ubuntu: apt-get install python3-venv"
        exit 1
    }
    say "making $venv with $("$python" -V)"
    "$python" -m venv --clear "$venv"
}
