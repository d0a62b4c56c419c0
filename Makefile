# A thin front to the CMake presets. Each target installs what is missing, builds, does its job.
build := build/release

cuda := build/cuda

.PHONY: build demo test test-sanitized fuzz soak corpus clean build-gpu test-gpu test-gpu-ranks bench-gpu bench-gpu-ranks bundle

build:
	@tools/install_packages.sh
	@[ -f $(build)/build.ninja ] || cmake --preset release
	@cmake --build --preset release

demo: build
	@tools/demo.sh $(build)/metala

test: build
	@ctest --preset release --parallel 2

# The tests under the address and undefined-behaviour sanitizers; their build takes many minutes.
test-sanitized:
	@tools/install_packages.sh
	@[ -f build/sanitize/build.ninja ] || cmake --preset sanitize
	@cmake --build --preset sanitize
	@ctest --preset sanitize --parallel 2

# Every reader of files against inputs that libFuzzer makes up, SECONDS each; needs clang.
SECONDS ?= 300
fuzz:
	@tools/install_packages.sh
	@[ -f build/fuzz/build.ninja ] || cmake --preset fuzz
	@cmake --build --preset fuzz
	@tools/fuzz.py build/fuzz --seconds $(SECONDS)

# For NVIDIA GPUs; needs nvcc (docs/gpu.md).
build-gpu:
	@tools/install_packages.sh
	@[ -f $(cuda)/build.ninja ] || cmake --preset cuda
	@cmake --build --preset cuda

# Everything that needs a GPU, on a machine with one. SANITIZE=1: compute-sanitizer over it too.
test-gpu: build-gpu
	@tools/test_gpu.sh $(cuda)/metala $(cuda)/tests tests/golden/tiny tests/golden/tied tests/golden/padded

# Ranks with a GPU each, on a machine with two to four; needs NCCL (NCCL_ROOT where it is elsewhere).
test-gpu-ranks:
	@tools/install_packages.sh
	@cmake --preset cuda -DMETALA_MPI=ON -DMETALA_NCCL=ON
	@cmake --build --preset cuda --target metala_program ranks_test
	@tools/test_gpu_ranks.sh $(cuda)/metala $(cuda)/tests/ranks_test

# What ranks gain, on a machine with several.
bench-gpu-ranks: build-gpu
	@tools/bench_gpu_ranks.sh $(cuda)/metala

bench-gpu: build-gpu
	@tools/bench_gpu.sh $(cuda)/metala

# An archive that starts on other distributions: build/metala.tar.gz, with CUDA where nvcc is there.
nvcc := $(firstword $(shell command -v nvcc) $(wildcard /usr/local/cuda/bin/nvcc))
bundle: $(if $(nvcc),build-gpu,build)
	@rm -rf build/bundle
	@tools/bundle.sh build/bundle/metala $(if $(nvcc),$(cuda),$(build))/metala
	@cp LICENSE build/bundle/metala/
	@tar -C build/bundle -czf build/metala.tar.gz metala
	@du -h build/metala.tar.gz

# Kills ranks of a run at random moments and compares what comes out with an undisturbed run.
KILLS ?= 50
soak: build
	@tools/soak.py $(build)/metala --kills $(KILLS)

# Fetches Debian's documentation packages and makes the training text in corpus/.
corpus:
	@python3 tools/corpus/build_corpus.py --output corpus

clean:
	rm -rf build
