#!/bin/sh
# Runs everything that needs a GPU: the tests named OnGpu of every test program, and `metala verify`
# on the authors' outputs.
#   test_gpu.sh METALA FOLDER_OF_TEST_PROGRAMS [GOLDEN_FOLDER...]
# With SANITIZE=1 also compute-sanitizer's memcheck and racecheck over the smaller tests; takes
# minutes; docs/gpu.md says what racecheck cannot check. Fails when there is no GPU: then nothing
# would have been tested.
set -eu
metala=$1
programs=$2
shift 2
if ! "$metala" doctor | grep -q '^cuda:.*multiprocessors'; then
  echo "test_gpu: no GPU that this build can use; $metala doctor says:" >&2
  "$metala" doctor | grep -E '^(GPU|cuda)' >&2
  exit 1
fi
failed=

# run NAME COMMAND...: what it prints only if it fails, and how long it took.
run() {
  name=$1
  shift
  start=$(date +%s)
  if output=$("$@" 2>&1); then
    echo "passed  $name  ($(($(date +%s) - start)) s)"
  else
    printf '%s\n' "$output"
    echo "FAILED  $name"
    failed="$failed $name"
  fi
}

has() { "$1" --gtest_list_tests --gtest_filter="$2" | grep -q '^  '; } # PROGRAM TESTS

for program in "$programs"/*_test; do
  if ! has "$program" '*OnGpu*'; then continue; fi
  run "$(basename "$program")" "$program" --gtest_filter='*OnGpu*' --gtest_brief=1
done
for folder in "$@"; do
  run "verify $(basename "$folder")" "$metala" verify "$folder" --device cuda
done

if [ -n "${SANITIZE:-}" ]; then
  sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
  # cuBLASLt's own kernels are not ours to check; racecheck takes their clusters' copies for hazards.
  exclude=
  for option in --kernel-name-exclude --kernel-regex-exclude; do
    if "$sanitizer" --help | grep -q -e "$option"; then exclude=$option; fi
  done
  # Whole steps are beyond its speed; their kernels are those of the tests named Decode. That of CUDA
  # 13.0 (2025.3.1) stops in the tests of products with an error of its own ("failed to handle a
  # hardware exception"), also when told to check no kernel, and reports all that comes after it as
  # failed; that of CUDA 13.5 (2026.4) does not.
  left_out='FusedStepOnGpu.*'
  not_checked=
  if [ "$("$sanitizer" --version | sed -n 's/^Version \([0-9]*\).*/\1/p')" -lt 2026 ]; then
    left_out="$left_out:DecodeOnGpu.*"
  else
    # There one thread tells another warpgroup, by an mbarrier, what those that it has met have
    # written; the newer racecheck credits it with its own writes alone.
    not_checked=walk_prepared
  fi
  for program in "$programs"/*_test; do
    for tool in memcheck racecheck; do
      tests=${SANITIZE_TESTS:-*OnGpu*}
      kernels=nvjet
      if [ $tool = racecheck ]; then
        tests="$tests:-$left_out"
        kernels="$kernels $not_checked"
      fi
      if ! has "$program" "$tests"; then continue; fi
      set -- --tool $tool --error-exitcode 9
      for kernel in $kernels; do set -- "$@" ${exclude:+"$exclude" kernel_substring=$kernel}; done
      run "$tool $(basename "$program")" "$sanitizer" "$@" \
        "$program" --gtest_filter="$tests" --gtest_brief=1
    done
  done
  echo "left out: racecheck of $left_out${not_checked:+ and of the kernel $not_checked}"
fi
[ -z "$failed" ] || { echo "FAILED:$failed" >&2; exit 1; }
