#!/usr/bin/env bash
# Downloads MiniPlaces to data/, or to DIR: images/ objects/ train.txt val.txt categories.txt.
#
#   sh ./download_dataset.sh [DIR]
#
# Resumes an interrupted download; does nothing if the data set is complete. The archive is tested, then unpacked into a
# temporary folder, so that DIR never contains a partial data set. At the end 100,000 training and 10,000 validation
# labels must be there. The archive comes from Google Drive through gdown, or from MINIPLACES_ARCHIVE_URL.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
dest=${1:-$here/data}
drive_id=16GYHdSWS3iMYwMPv5FpeDZN2rH7PR0F2
archive_url=${MINIPLACES_ARCHIVE_URL:-}
labels_url=${MINIPLACES_LABELS_URL:-https://raw.githubusercontent.com/CSAILVision/miniplaces/master/data}
min_bytes=${MINIPLACES_MIN_BYTES:-100000000} # Google Drive's error pages have a few kB
train_lines=${MINIPLACES_TRAIN_LINES:-100000}
val_lines=${MINIPLACES_VAL_LINES:-10000}

say() { echo "download_dataset: $*"; }
fail() { echo "download_dataset: error: $*" >&2; exit 1; }

lines() { grep -c '[^[:space:]]' "$1" 2>/dev/null || true; } # non-empty lines, with or without a final newline
has_labels() { # FILE WANTED_LINES
  [ "$(lines "$1")" = "$2" ]
}
first_and_last_image_are_there() { # FILE
  local name
  for name in "$(head -n 1 "$dest/$1" | awk '{print $1}')" "$(tail -n 1 "$dest/$1" | awk '{print $1}')"; do
    [ -s "$dest/images/$name" ] || return 1
  done
}
complete() {
  has_labels "$dest/train.txt" "$train_lines" && has_labels "$dest/val.txt" "$val_lines" \
    && first_and_last_image_are_there train.txt && first_and_last_image_are_there val.txt
}

fetch() { # URL FILE: resumes FILE if the server supports it, else restarts
  command -v curl >/dev/null || fail "curl is needed to download $1; install it, or put the file into $dest"
  local code=0
  curl --fail --location --silent --show-error --retry 3 --continue-at - --output "$2" "$1" || code=$?
  if [ "$code" = 33 ] || [ "$code" = 36 ]; then # the server cannot resume
    rm -f "$2"
    code=0
    curl --fail --location --silent --show-error --retry 3 --output "$2" "$1" || code=$?
  fi
  [ "$code" = 0 ] || fail "$1 cannot be downloaded (curl's exit code $code). Is there a network? Run this again to resume; \
or download the file elsewhere and put it into $dest"
}

fetch_archive() { # FILE
  if [ -n "$archive_url" ]; then
    fetch "$archive_url" "$1"
    return
  fi
  local gdown=gdown
  command -v gdown >/dev/null || gdown=$here/.venv/bin/gdown
  command -v "$gdown" >/dev/null || fail "gdown is needed to download from Google Drive: pip install gdown (or make setup)"
  "$gdown" --continue --output "$1" "$drive_id" || fail "Google Drive file $drive_id cannot be downloaded. Is there a \
network? If the download quota is exceeded, try again later, or open \
https://drive.google.com/uc?id=$drive_id in a browser and save the file as $dest/data.tar.gz; then run this again"
}

check_archive() { # FILE: sets $flaw, empty if the archive is valid
  local bytes
  bytes=$(wc -c <"$1")
  flaw=
  if [ "$bytes" -lt "$min_bytes" ]; then
    flaw="has only $bytes bytes"
  elif ! tar -tzf "$1" >/dev/null 2>&1; then
    flaw="is not a complete .tar.gz"
  fi
}

get_archive() {
  local archive=$dest/data.tar.gz
  if [ -f "$archive" ]; then
    check_archive "$archive"
    [ -z "$flaw" ] && return
    say "$archive $flaw; resuming the download"
    mv "$archive" "$archive.part"
  fi
  say "downloading the images (some 500 MB)"
  fetch_archive "$archive.part"
  check_archive "$archive.part"
  if [ -n "$flaw" ]; then # cannot be resumed: the next run starts again
    mv "$archive.part" "$archive.bad"
    fail "the download $flaw; it was moved to $archive.bad. Run this again, or save the archive as $archive"
  fi
  mv "$archive.part" "$archive"
}

unpack() {
  local folder inside
  say "unpacking"
  folder=$(mktemp -d "$dest/.unpack.XXXXXX")
  trap 'rm -rf "$folder"' EXIT
  tar -xzf "$dest/data.tar.gz" --no-same-owner -C "$folder"
  inside=$(find "$folder" -maxdepth 2 -type d -name images | head -n 1)
  [ -n "$inside" ] || fail "$dest/data.tar.gz contains no folder images/"
  for name in objects images; do # images last: complete() looks for it
    if [ -d "$(dirname "$inside")/$name" ]; then
      rm -rf "${dest:?}/$name"
      mv "$(dirname "$inside")/$name" "$dest/$name"
    fi
  done
  rm -rf "$folder"
  trap - EXIT
}

get_labels() { # NAME WANTED_LINES
  has_labels "$dest/$1" "$2" && return
  say "downloading $1"
  rm -f "$dest/$1.part"
  fetch "$labels_url/$1" "$dest/$1.part"
  has_labels "$dest/$1.part" "$2" || fail "$labels_url/$1 has $(lines "$dest/$1.part") lines instead of $2"
  mv "$dest/$1.part" "$dest/$1"
}

mkdir -p "$dest"
if complete; then
  say "MiniPlaces is already in $dest; nothing to do"
  exit 0
fi
get_labels train.txt "$train_lines"
get_labels val.txt "$val_lines"
if [ ! -s "$dest/categories.txt" ]; then
  fetch "$labels_url/categories.txt" "$dest/categories.txt.part"
  mv "$dest/categories.txt.part" "$dest/categories.txt"
fi
if ! { [ -d "$dest/images" ] && complete; }; then
  get_archive
  unpack
fi
complete || fail "images of the label files are missing in $dest/images; delete $dest/data.tar.gz and run this again"
say "MiniPlaces is in $dest: $train_lines training and $val_lines validation images"
