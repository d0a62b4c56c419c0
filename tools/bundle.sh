#!/bin/sh
# Copies programs and the libraries they need, but for the C library and the NVIDIA driver's, into a
# folder that works on another distribution: FOLDER/bin has what to start, FOLDER/libexec and
# FOLDER/lib what that needs. cuBLASLt is looked for at run time and stays outside.
#   bundle.sh FOLDER PROGRAM...
set -eu
folder=$1
shift
mkdir -p "$folder/bin" "$folder/lib" "$folder/libexec"
for program in "$@"; do
  name=$(basename "$program")
  cp "$program" "$folder/libexec/$name"
  strip "$folder/libexec/$name"
  ldd "$program" | awk '$3 ~ /^\// {print $3}' | while read -r library; do
    case $(basename "$library") in
      libc.so.* | libm.so.* | librt.so.* | libpthread.so.* | libdl.so.* | libcu* | libnccl*) ;;
      *) cp -Lu "$library" "$folder/lib/" ;;
    esac
  done
  # Not by paths inside the programs: a library with paths of its own would not see them.
  cat >"$folder/bin/$name" <<'START'
#!/bin/sh
here=$(dirname "$(dirname "$(readlink -f "$0")")")
LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} \
  exec "$here/libexec/$(basename "$0")" "$@"
START
  chmod +x "$folder/bin/$name"
done
