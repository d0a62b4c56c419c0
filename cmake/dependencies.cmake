# Everything metala stands on, found among the system's packages (tools/packages.txt names them).
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(benchmark REQUIRED)
pkg_check_modules(openblas REQUIRED IMPORTED_TARGET openblas)
pkg_check_modules(hwy REQUIRED IMPORTED_TARGET libhwy)
pkg_check_modules(edit REQUIRED IMPORTED_TARGET libedit)
pkg_check_modules(sentencepiece REQUIRED IMPORTED_TARGET sentencepiece)
pkg_check_modules(oniguruma REQUIRED IMPORTED_TARGET oniguruma)
pkg_check_modules(utf8proc REQUIRED IMPORTED_TARGET libutf8proc)
pkg_check_modules(yaml REQUIRED IMPORTED_TARGET yaml-cpp)
pkg_check_modules(zlib REQUIRED IMPORTED_TARGET zlib)
pkg_check_modules(zstd REQUIRED IMPORTED_TARGET libzstd)
if(METALA_TESTS)
  find_package(GTest REQUIRED)
  find_package(rapidcheck REQUIRED)
endif()

add_library(metala_options INTERFACE)
target_compile_features(metala_options INTERFACE cxx_std_20)
set(metala_warnings
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  list(APPEND metala_warnings
       -Wno-restrict)  # GCC 12 sees overlaps in std::string that are not there (its bug 105651)
endif()
if(METALA_WERROR)
  list(APPEND metala_warnings -Werror)
endif()
# Exact float32 arithmetic everywhere, but sums may keep a fused multiply-add, as the references do.
target_compile_options(metala_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:${metala_warnings};-fno-math-errno>
  $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;--expt-extended-lambda;-Xcompiler=-Wall>)
# The vector bodies are compiled for some of the instruction sets that Highway knows and picked at run
# time; more would only lengthen the build. The sanitizers, slow to compile, get two: what every
# x86-64 has, and AVX2. On ARM NEON: vectors of a size that the compiler does not know (SVE) cannot be
# members of what the bodies keep in registers.
set(metala_left_out HWY_AVX3_DL HWY_SSE4 HWY_SSSE3 HWY_SVE HWY_SVE2 HWY_SVE_256 HWY_SVE2_128)
if(METALA_SANITIZE)
  list(APPEND metala_left_out HWY_AVX3)
endif()
string(JOIN "|" metala_left_out ${metala_left_out})
target_compile_definitions(metala_options INTERFACE HWY_DISABLED_TARGETS=${metala_left_out})
if(METALA_SANITIZE)
  target_compile_options(metala_options INTERFACE
    -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(metala_options INTERFACE -fsanitize=address,undefined)
endif()
if(METALA_FUZZ)  # a fuzzer that does not see the library's branches tries bytes at random
  target_compile_options(metala_options INTERFACE -fsanitize=fuzzer-no-link)
  target_link_options(metala_options INTERFACE -fsanitize=fuzzer-no-link)
endif()
