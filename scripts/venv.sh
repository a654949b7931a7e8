# Sourced by the scripts beside it, from the repository's root: makes .venv and keeps it up to date.

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# Print a Python that is new enough: $PYTHON if it is set, else the first one found.
find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        is_new_enough "$PYTHON" || die "PYTHON=$PYTHON is not Python 3.11 or newer"
        printf '%s\n' "$PYTHON"
        return
    fi
    # The machine's own choice first: it is the Python for which wheels are most likely at hand.
    for candidate in python3 python3.12 python3.11 python3.13 python3.14 python; do
        if is_new_enough "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    die "no Python 3.11 or newer on the PATH; install one, or name it: PYTHON=/path/to/python3.12 $0"
}

# A .venv that was copied or moved still runs the old place's programs, so pip must name this one.
venv_stands() { is_new_enough .venv/bin/python && grep -qsF "$(pwd -P)/.venv/bin/python" .venv/bin/pip; }

make_venv() {
    local python
    if venv_stands; then return; fi
    python=$(find_python)
    say "making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv ||
        die "$python cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv"
}

# What an installation depends on: the two files and the interpreter.
wanted() { { cat pyproject.toml constraints.txt; .venv/bin/python --version; } | cksum; }

is_installed() { [ "$(cat ".venv/installed-$1" 2>/dev/null)" = "$(wanted)" ]; }

# install base|dev|bench: the package, editable, with the tested versions; dev and bench hold base.
install() {
    local what=.
    if is_installed "$1"; then return; fi
    if [ "$1" = base ]; then
        if is_installed dev || is_installed bench; then return; fi
    else
        what=".[$1]"
    fi
    say "installing $what into .venv (minutes the first time: torch is large)"
    # Twice quiet: errors are still shown.
    .venv/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e "$what" ||
        die "pip could not install $what; its message stands above"
    wanted >".venv/installed-$1"
}
