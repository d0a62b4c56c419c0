# A thin front to the CMake presets. Each target installs what is missing, builds, does its job.
build := build/release

.PHONY: build demo test corpus clean

build:
	@tools/install_packages.sh
	@[ -f $(build)/build.ninja ] || cmake --preset release
	@cmake --build --preset release

demo: build
	@tools/demo.sh $(build)/metala

test: build
	@OMP_WAIT_POLICY=passive ctest --preset release --parallel 2

# Fetches Debian's documentation packages and makes the training text in corpus/.
corpus:
	@python3 tools/corpus/build_corpus.py --output corpus

clean:
	rm -rf build
