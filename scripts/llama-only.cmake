# Included by CMake right after project(llama_cpp) of llama-cpp-python: build only libllama and ggml.
#
# Its CMakeLists.txt switches llama.cpp's library "common" on in the cache. A normal variable hides the cached one
# (CMake policies CMP0077 and CMP0126). mtmd, for images and sound, is built with LLAVA_BUILD=ON and needs "common".
if(NOT LLAVA_BUILD)
    set(LLAMA_BUILD_COMMON OFF)
endif()

# libllama builds graphs, which ggml computes: -O3 takes up to a third longer to compile than -O2 and decodes no faster
# (medians of six alternating runs: 52.5 and 52.1 tokens/s).
# Deferred until the target exists. The last -O on a command line takes effect.
cmake_language(DEFER CALL cmake_language EVAL CODE [[
    if(TARGET llama)
        target_compile_options(llama PRIVATE
            "$<$<AND:$<CONFIG:Release>,$<COMPILE_LANG_AND_ID:CXX,GNU,Clang,AppleClang>>:-O2>")
    endif()
]])
