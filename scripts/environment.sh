# Sourced by the other scripts: makes or reuses the virtual environment .venv and installs sharpen with the extras in $1.
# Needs Python 3.11 or newer; PYTHON=... picks one. Installs again only when what is to be installed has changed.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ ! -x .venv/bin/python ]; then
    for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3 python}; do  # a name may be there and not run
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$candidate; break; fi
    done
    [ -n "${found:-}" ] || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/it" >&2; exit 2; }
    PYTHON=$found
    echo "making the virtual environment .venv with $("$PYTHON" --version)"
    "$PYTHON" -m venv .venv
fi
wanted="$1 $(cat pyproject.toml constraints.txt | cksum)"
if ! grep -qsxF "$wanted" .venv/installed; then
    echo "installing sharpen[$1]"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-warn-script-location -c constraints.txt -e ".[$1]"
    echo "$wanted" >> .venv/installed
fi
