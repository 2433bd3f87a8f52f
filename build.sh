#!/usr/bin/env bash
# Builds, runs and tests this checkout. Everything goes into its own folders; `./build.sh help` tells.
set -euo pipefail
# Others shall run what is made here: the user of a GPP, whoever calls a command.
umask 022

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
venv=${VENV:-.venv}
# Only a folder with this file in it is ever removed.
mark=.made-by-build.sh
[[ $venv == /* ]] || venv=$here/$venv

usage() {
    cat <<'END'
usage: ./build.sh [COMMAND [ARGUMENT ...]]

  build               (default) make the environment .venv, with the commands in .venv/bin
  run [ARGUMENT ...]  the demonstration, on real heaps and in a whole node (demo/demo.py)
  test [ARGUMENT ...] the tests; arguments go to pytest
  bench [ARGUMENT ..] the measurements (bench/bench.py)
  install [--sdrroot DIR] [--python FILE]
                      into REDHAWK's $SDRROOT: the GPP plugin, and the device with example nodes
                      and waveforms; again: an update, which keeps examples that were changed
  uninstall [--sdrroot DIR]
  rpm [ARGUMENT ...]  packages, into dist; arguments go to rpmbuild
  lint                ruff, mypy and vermin
  clean               remove the environment, caches and build output
  help                this text

Each command does its own set-up first, and skips what is done already.
PYTHON=FILE chooses the interpreter (3.7 or newer; default: python3).
VENV=DIR puts the environment elsewhere (default: .venv), DIST=DIR the packages (default: dist).
END
}

say() { printf 'build.sh: %s\n' "$*" >&2; }

die() {
    say "$@"
    exit 1
}

# Sets `python`, the real file of the interpreter (an activated .venv leads to what it was made of), and `version`.
find_python() {
    local wanted=${PYTHON:-python3} found
    found=$("$wanted" -I -c '
import os, sys
print("%d.%d.%d" % sys.version_info[:3])
print(os.path.realpath(sys.executable))' 2>/dev/null) ||
        die "cannot run $wanted: install python3 (3.7 or newer), or name one with PYTHON=FILE"
    version=${found%%$'\n'*}
    python=${found#*$'\n'}
    case $version in
        2.* | 3.[0-6].*) die "$wanted is Python $version: building needs 3.7 or newer; name one with PYTHON=FILE" ;;
    esac
}

# What the environment was made from, and for which place.
key() {
    printf '%s\n' "$python $version $here $venv"
    cat -- "$here/pyproject.toml" "$here/build.sh" "$here/python/gppshm/launcher.py"
}

# Is the environment whole, made from the present files, and with all these extras?
is_built() {
    local made='' have='' extra
    [[ -x $venv/bin/python && -f $venv/built ]] || return 1
    { read -r made && read -r have; } <"$venv/built" || return 1
    [[ $made == "$stamp" ]] || return 1
    for extra in "$@"; do
        [[ " $have " == *" $extra "* ]] || return 1
    done
}

quiet_pip() {
    PIP_USER=0 "$venv/bin/python" -I -m pip --quiet --disable-pip-version-check --no-input "$@" </dev/null >&2 ||
        die "pip could not install ${*:2}: see above; is the package index reachable? Then run this again"
}

make_environment() {
    local made='' have='' extra extras
    is_built "$@" && return
    extras=$*
    if [[ -f $venv/built ]] && { read -r made && read -r have; } <"$venv/built" && [[ $made == "$stamp" ]] &&
        [[ -x $venv/bin/python ]]; then
        for extra in "$@"; do
            [[ " $have " == *" $extra "* ]] || have+=" $extra"
        done
        extras=$have
        rm -f -- "$venv/built"
    else
        if [[ -e $venv && ! -e $venv/$mark && -n $(ls -A -- "$venv") ]]; then
            die "$venv was not made by build.sh: not touched; move it away, or name another place with VENV=DIR"
        fi
        "$python" -I -c 'import venv, ensurepip; ensurepip.version()' 2>/dev/null ||
            die "$python has no venv and ensurepip: run 'apt-get install python3-venv', or name another with PYTHON=FILE"
        say "making $venv with Python $version"
        rm -rf -- "$venv"
        mkdir -p -- "$venv"
        : >"$venv/$mark"
        "$python" -I -m venv -- "$venv"
        # pip before 21.3 cannot install a checkout in place by its pyproject.toml.
        case $("$venv/bin/python" -I -m pip --version) in
            "pip "[0-9].* | "pip "1[0-9].* | "pip 20."* | "pip 21."[0-2]*) quiet_pip install --upgrade pip ;;
        esac
    fi
    say "installing packages ($extras)"
    cd -- "$here"
    quiet_pip install --editable ".[${extras// /,}]"
    "$venv/bin/python" -I "$here/python/gppshm/launcher.py" --bin "$venv/bin" --python "$venv/bin/python" \
        --package-dir "$here/python"
    printf '%s\n%s\n' "$stamp" "$extras" >"$venv/built.new"
    mv -- "$venv/built.new" "$venv/built"
}

# Waits for another build of this checkout; the lock (on the folder itself: no file stays) ends with the subshell.
locked() (
    exec 9<"$here"
    flock 9
    "$@" 9<&-
)

# What omniidl makes of the IDL: the stubs of REDHAWK's types, and the stand-in's own. Neither depends on the Python.
idl=$here/python/gppshm/redhawk/idl
stubs=$here/python/gppshm/redhawk/stubs
standin_stubs=$here/standin/standin_stubs

stubs_are_made() {
    local made=''
    [[ -d $stubs && -d $standin_stubs && -f $here/build/idl/made ]] || return 1
    read -r made <"$here/build/idl/made" || return 1
    [[ $made == "$stubs_stamp" ]]
}

make_stubs() {
    stubs_are_made && return
    local out=$here/build/idl file
    rm -rf -- "$out"
    mkdir -p -- "$out"
    say "compiling the IDL"
    # From its own folder: the stubs then hold no path of this machine. omniORBpy brings the event channel's own.
    cd -- "$idl"
    # By PATH: omniidl starts the preprocessor that lies beside it through a shell, without quoting its path.
    set -- -bpython "-Yomnicpp -lang-c++ -undef" -I. -C "$out" -Wbextern=CosEventChannelAdmin
    omniidl "$@" -Wbpackage=gppshm.redhawk.stubs ./*.idl
    for file in *.idl; do
        set -- "$@" "-Wbextern=${file%.idl}:gppshm.redhawk.stubs"
    done
    omniidl "$@" -Wbpackage=standin_stubs ../../../../standin/idl/standin.idl
    rm -rf -- "$stubs" "$standin_stubs"
    mv -- "$out/gppshm/redhawk/stubs" "$stubs"
    mv -- "$out/standin_stubs" "$standin_stubs"
    printf '%s\n' "$stubs_stamp" >"$out/made"
}

omniidl() {
    PATH=$venv/bin:$PATH "$venv/bin/python" -I "$venv/bin/omniidl" "$@" >&2 || die "omniidl failed: see above"
}

build() {
    find_python
    stamp=$(key | sha256sum)
    is_built "$@" || locked make_environment "$@"
    # There is no omniORB for every Python and machine (pyproject.toml): without it, no CORBA.
    if [[ -x $venv/bin/omniidl ]]; then
        stubs_stamp=$(cat -- "$here/build.sh" "$idl"/*.idl "$idl"/*/*.idl "$here"/standin/idl/*.idl | sha256sum)
        stubs_are_made || locked make_stubs
    fi
}

# Bytecode beforehand: a user who may not write here would compile the package at every start.
compile() {
    "$venv/bin/python" -I -m compileall -q -- "$here/python/gppshm" >&2 ||
        die "a file of the package could not be compiled: see above"
}

# Production code, the demonstration and the papers need CPython 3.6 at most. `# novm` excuses a line that probes for more.
vermin() {
    local tree trees=()
    for tree in python demo docs; do
        [[ ! -d $tree ]] || trees+=("$tree")
    done
    "$venv/bin/vermin" --quiet --no-tips --violations --target=3.6- -- "${trees[@]}"
}

# Away from here: rpmbuild knows no path with a blank in it.
make_rpm() {
    local dist=${DIST:-$here/dist} version name
    type -P rpmbuild >/dev/null ||
        die "there is no rpmbuild: install Debian's package rpm, or rpm-build elsewhere; then run this again"
    version=$("$venv/bin/python" -I -c 'import gppshm; print(gppshm.__version__)')
    name=GppShmPlugin-$version
    rpm_top=$(mktemp -d)
    trap 'rm -rf -- "$rpm_top"' EXIT
    mkdir -p -- "$rpm_top/SOURCES" "$rpm_top/SPECS" "$dist"
    tar -C "$here" --exclude=__pycache__ --exclude=standin/standin_stubs --transform "s,^,$name/,S" \
        -czf "$rpm_top/SOURCES/$name.tar.gz" -- COPYING LICENSE README.md CHANGELOG.md build.sh pyproject.toml \
        GppShmPlugin.{spec,spd.xml,scd.xml,prf.xml} bench demo docs monitoring nodes python standin systemd tests waveforms
    {
        printf '%%global gppshm_version %s\n' "$version"
        cat -- "$here/GppShmPlugin.spec"
    } >"$rpm_top/SPECS/GppShmPlugin.spec"
    # --nodeps: that there is a Python is known, and not every system with an rpmbuild has a database of packages.
    rpmbuild -ba --nodeps --quiet --define "_topdir $rpm_top" "$@" "$rpm_top/SPECS/GppShmPlugin.spec" </dev/null >&2 ||
        die "rpmbuild failed: see above"
    mv -f -- "$rpm_top"/SRPMS/*.rpm "$rpm_top"/RPMS/noarch/*.rpm "$dist/"
    say "the packages are in $dist"
}

clean() {
    local tree trees=()
    if [[ -e $venv/$mark ]]; then
        rm -rf -- "$venv"
    fi
    rm -rf -- "$stubs" "$standin_stubs" "$here"/{.ci-cache,build,dist,.pytest_cache,.mypy_cache,.ruff_cache,.hypothesis}
    for tree in python demo docs tests bench standin; do
        [[ ! -d $here/$tree ]] || trees+=("$here/$tree")
    done
    find "${trees[@]}" -name __pycache__ -type d -prune -exec rm -rf -- {} +
}

command=${1:-build}
[[ $# -eq 0 ]] || shift
case $command in
    build)
        build processes corba metrics top
        compile
        # man and bash look there on account of PATH.
        "$venv/bin/python" -I "$here/docs/papers.py" "$venv/share"
        say "the commands are in $venv/bin"
        ;;
    run)
        build processes corba
        compile
        exec "$venv/bin/python" -Es "$here/demo/demo.py" "$@"
        ;;
    test)
        build processes corba metrics top test
        cd -- "$here"
        exec "$venv/bin/python" -I -m pytest "$@"
        ;;
    bench)
        build processes corba top test
        compile
        exec "$venv/bin/python" -Es "$here/bench/bench.py" "$@"
        ;;
    lint)
        build processes corba metrics top test dev
        cd -- "$here"
        failed=0
        "$venv/bin/ruff" check || failed=1
        "$venv/bin/ruff" format --check || failed=1
        "$venv/bin/mypy" || failed=1
        vermin || failed=1
        exit "$failed"
        ;;
    install | uninstall)
        build processes corba metrics
        exec "$venv/bin/python" -I "$here/python/gppshm/redhawk/install.py" "$command" "$@"
        ;;
    rpm)
        build processes corba
        [[ -d $stubs ]] || die "the IDL was not compiled, as there is no omniORB for $python: name another with PYTHON=FILE"
        make_rpm "$@"
        ;;
    clean) locked clean ;;
    help | -h | --help) usage ;;
    *)
        say "unknown command: $command"
        usage >&2
        exit 2
        ;;
esac
