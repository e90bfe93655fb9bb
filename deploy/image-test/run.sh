#!/usr/bin/env bash
# Builds the shipped Dockerfile without a Docker engine, and makes a toy picture in the image as its own user.
# The base is a Debian made here, in place of python:slim. Needs root, buildah, debootstrap, and some 40 GB for a while:
# the vfs driver, which works everywhere, copies every layer.
set -euo pipefail
cd "$(dirname "$0")/../.."

for program in buildah debootstrap; do
  command -v "$program" >/dev/null || { echo "$program is missing: apt-get install buildah debootstrap" >&2; exit 1; }
done

export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
work=${IMAGE_TEST_DIR:-$PWD/.cache/image-test}
out=$PWD/out/image-test
base=localhost/debian-python:bookworm
image=localhost/sdxl-worker:image-test
mkdir -p "$work/tmp" "$out"
export TMPDIR=$work/tmp
b() { buildah --root "$work/storage" --runroot "$work/run" "$@"; }
clean() { b rm --all >/dev/null 2>&1 || true; [ -n "${KEEP:-}" ] || rm -rf "$work/storage" "$work/run" "$work/tmp"; }
trap clean EXIT

if [ ! -d "$work/debian" ]; then
  debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$work/debian.new"
  mv "$work/debian.new" "$work/debian"
fi
container=$(b from scratch)
b copy --quiet "$container" "$work/debian" / >/dev/null
b commit --quiet "$container" "$base" >/dev/null
b rm "$container" >/dev/null

# This machine's way to its package index, which is no business of the Dockerfile.
volumes=()
{
  echo "[global]"
  python3 -m pip config list | sed -n "s/^[^=]*\.\([a-z-]*\)='\(.*\)'$/\1 = \2/p" | sort -u
} >"$work/pip.conf"
volumes+=(--volume "$work/pip.conf:/etc/pip.conf:ro")
while IFS= read -r path; do
  [ -e "$path" ] && volumes+=(--volume "$path:$path:ro")
done < <(sed -n 's/^\(cert\|find-links\) = //p' "$work/pip.conf")

b bud --format docker --build-arg "BASE_IMAGE=$base" "${volumes[@]}" --tag "$image" .

container=$(b from "$image")
in_image() { b run --volume "$PWD/deploy/image-test:/test:ro" --env SDXL_MODEL_ID=/tmp/toy/base \
  --env SDXL_REFINER_ID=/tmp/toy/refiner --env DEVICE=cpu --env OMP_NUM_THREADS=1 "$container" -- "$@"; }
echo "== sdxl-worker --version, as the image's user"
in_image id -u
in_image sdxl-worker --version
echo "== a toy picture"
in_image sdxl-worker models tiny /tmp/toy
in_image python3 /test/picture.py /tmp/picture.jpg
cp "$(b mount "$container")/tmp/picture.jpg" "$out/picture.jpg"
b inspect --type image --format '{{.Docker.Config.User}} {{.Docker.Config.Entrypoint}} {{.Docker.Config.Cmd}} {{.Docker.Config.Healthcheck}}' "$image"
echo
echo "== the picture is $out/picture.jpg"
