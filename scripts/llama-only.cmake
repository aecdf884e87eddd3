# Included by CMake right after project(llama_cpp) of llama-cpp-python: build libllama and ggml, and nothing else.
#
# Its CMakeLists.txt switches llama.cpp's library "common" on in the cache. A normal variable hides the cached one
# (CMake policies CMP0077 and CMP0126). mtmd, for images and sound, is built with LLAVA_BUILD=ON and needs the rest.
if(NOT LLAVA_BUILD)
    set(LLAMA_BUILD_COMMON OFF)
endif()
