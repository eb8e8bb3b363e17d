#!/usr/bin/env bash
# Build llama.cpp, the peer that docs/performance.md measures, into a folder.
#
# usage: scripts/build-llama-cpp.sh FOLDER
#
# The sources are those that the Python package llama-cpp-python 0.3.36 carries (ggml 0.25.3), fetched by
# pip and checked by sha256. They are built for this very machine (GGML_NATIVE), with OpenMP, llamafile's
# products and repacking on, as upstream has it. The compiler is clang: GCC 12 drops the stores to the AMX tile
# configuration, and the program then crashes on its first batch (upstream issue 20824).
#
# Debian: apt-get install clang-19 libomp-19-dev lld-19 cmake ninja-build
# Result: FOLDER/bin/llama-bench and the other tools below. CC, CXX and JOBS (2) may be set.
set -euo pipefail

folder=$(mkdir -p "${1:?usage: $0 FOLDER}" && cd "$1" && pwd)
archive=llama_cpp_python-0.3.36.tar.gz
sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
tools=(llama-bench llama-batched-bench llama-perplexity llama-quantize llama-completion llama-cli
    llama-server llama-tokenize)

first_of() { for name in "$@"; do command -v "$name" && return; done; }
cc=${CC:-$(first_of clang-21 clang-20 clang-19 clang-18 clang-17 clang-16 clang)} || {
    echo "$0: no clang found; hint: apt-get install clang-19 libomp-19-dev" >&2
    exit 2
}
cxx=${CXX:-${cc/clang/clang++}}

sources=$folder/llama_cpp_python-0.3.36/vendor/llama.cpp
if [ ! -d "$sources" ]; then
    [ -f "$folder/$archive" ] ||
        python3 -m pip download --no-deps --no-binary :all: -d "$folder" llama-cpp-python==0.3.36
    echo "$sha256  $folder/$archive" | sha256sum --check --quiet
    tar xzf "$folder/$archive" -C "$folder"
fi

cmake -G Ninja -S "$sources" -B "$folder/build" \
    -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_COMPILER="$cc" -DCMAKE_CXX_COMPILER="$cxx" \
    -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=ON -DGGML_OPENMP=ON -DGGML_LTO=OFF \
    -DLLAMA_BUILD_COMMON=ON -DLLAMA_BUILD_TOOLS=ON -DLLAMA_BUILD_SERVER=ON \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF
nice cmake --build "$folder/build" --parallel "${JOBS:-2}" --target "${tools[@]}"
ln -sfn build/bin "$folder/bin"
ls "$folder/bin/"
