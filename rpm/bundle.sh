#!/bin/sh
# bundle.sh PYTHON ROOT PREFIX WHEELHOUSE LOCK... -- PACKAGE...
# A virtual environment at PREFIX under ROOT with the locks' wheels and our packages, built offline and as if it had
# always been at PREFIX. Called by the specs.
set -eu
python=$1 root=$2 prefix=$3 wheelhouse=$4
shift 4
target=$root$prefix
if [ -n "${BUNDLED:-}" ]; then # the same environment, finished by an earlier build
    mkdir -p "$(dirname "$target")"
    cp -a "$BUNDLED$prefix" "$target"
    exit 0
fi
builder=$PWD/.builder
mkdir -p "$root"

"$python" -m venv --without-pip "$builder"
options="--disable-pip-version-check --quiet --no-cache-dir --no-input"
find="--no-index --find-links $wheelhouse"
"$builder/bin/python" "$(ls "$wheelhouse"/pip-*.whl)/pip" install $options $find --require-hashes --no-deps \
    --no-compile -r rpm/build.lock
pip="$builder/bin/python -m pip $options"

"$python" -m venv --without-pip "$target"
while [ "$1" != -- ]; do
    $pip --python "$target/bin/python" install $find --require-hashes --no-deps --no-compile -r "$1"
    shift
done
shift
$pip wheel $find --no-deps --no-build-isolation --wheel-dir "$builder/wheels" $(printf 'packages/%s ' "$@")
$pip --python "$target/bin/python" install --no-index --no-deps --no-compile "$builder"/wheels/*.whl
"$target/bin/python" -m compileall -q -s "$root" -p / --invalidation-mode unchecked-hash "$target"

# No trace of where it was built.
find "$target/bin" -type f -delete
rm -f "$target/lib64" "$target/.gitignore"
find "$target" -name direct_url.json -delete
version=$("$python" -c 'import platform; print(platform.python_version())')
printf 'home = /usr/bin\ninclude-system-site-packages = false\nversion = %s\n' "$version" > "$target/pyvenv.cfg"
if grep -rlF "$root" "$target"; then echo "the build root's path is in these files" >&2; exit 1; fi
