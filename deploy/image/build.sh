#!/bin/sh
# build.sh --weft FILE --weftctl FILE [--name NAME] [--ca FILE] [--libraries] OUT.tar
#
# Writes an image archive with two static programs and nothing else: no shell, no package manager. Needs no container engine;
# load it with `ctr -n k8s.io images import`, `skopeo copy docker-archive:OUT.tar docker://REGISTRY/weft:TAG`, or `docker load`.
# The same programs give the same archive, octet by octet.
# --ca puts a bundle of CA certificates (PEM) in, for registries that are signed by one of them, as /etc/ssl/certs/ca-certificates.crt.
# --libraries takes programs that are not static, with the shared libraries that they need: for tests and debugging.
set -eu
weft= weftctl= name=localhost/weft:latest out= ca= libraries=
while [ $# -gt 0 ]; do
  case $1 in
    --weft) weft=$2; shift 2 ;;
    --weftctl) weftctl=$2; shift 2 ;;
    --name) name=$2; shift 2 ;;
    --ca) ca=$2; shift 2 ;;
    --libraries) libraries=yes; shift ;;
    -*) echo "unknown option $1; see the head of this script" >&2; exit 2 ;;
    *) out=$1; shift ;;
  esac
done
[ -n "$weft" ] && [ -n "$weftctl" ] && [ -n "$out" ] || { echo "usage: $0 --weft FILE --weftctl FILE [--name NAME] [--ca FILE] [--libraries] OUT.tar" >&2; exit 2; }
for program in "$weft" "$weftctl"; do
  [ -f "$program" ] || { echo "$program does not exist" >&2; exit 1; }
  if [ -z "$libraries" ] && readelf -lW "$program" | grep -q INTERP; then
    echo "$program is not static; build it with --target $(uname -m)-unknown-linux-musl" >&2
    exit 1
  fi
done
case $(readelf -hW "$weft" | sed -n 's/.*Machine: *//p') in
  *X86-64*) arch=amd64 ;;
  *AArch64*) arch=arm64 ;;
  *) echo "$weft is for a machine this script does not know" >&2; exit 1 ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root/etc" "$root/run" "$root/tmp" "$root/var/lib" "$root/usr/local/bin"
# Runtimes call namespaces /var/run/netns or /run/netns.
ln -s ../run "$root/var/run"
echo 'root:x:0:0:root:/:/' >"$root/etc/passwd"
install -m 0755 "$weft" "$root/usr/local/bin/weft"
install -m 0755 "$weftctl" "$root/usr/local/bin/weftctl"
if [ -n "$ca" ]; then
  mkdir -p "$root/etc/ssl/certs"
  install -m 0644 "$ca" "$root/etc/ssl/certs/ca-certificates.crt"
fi
if [ -n "$libraries" ]; then
  for program in "$weft" "$weftctl"; do
    # The lines with a path are the libraries and their loader; a static program has none.
    for library in $(ldd "$program" 2>/dev/null | grep -o '/[^ ]*'); do
      mkdir -p "$root$(dirname "$library")"
      install -m 0755 "$library" "$root$library"
    done
  done
fi
pack() { tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner "$@"; }
pack -C "$root" -cf "$work/layer.tar" .
layer=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
mv "$work/layer.tar" "$work/$layer.tar"
cat >"$work/config.json" <<JSON
{"architecture":"$arch","os":"linux","config":{"Entrypoint":["/usr/local/bin/weftctl"],"Cmd":["agent"],"User":"0:0"},"rootfs":{"type":"layers","diff_ids":["sha256:$layer"]}}
JSON
cat >"$work/manifest.json" <<JSON
[{"Config":"config.json","RepoTags":["$name"],"Layers":["$layer.tar"]}]
JSON
pack -C "$work" -cf "$out" manifest.json config.json "$layer.tar"
