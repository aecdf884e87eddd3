# Included by CMake right after project(llama_cpp) of llama-cpp-python: build only libllama, ggml and mtmd.
#
# Its CMakeLists.txt switches llama.cpp's library "common" on in the cache. A normal variable hides the cached one
# (CMake policies CMP0077 and CMP0126). mtmd, which reads images, has done without it since llama.cpp 0.5.
set(LLAMA_BUILD_COMMON OFF)

# Two mends of llama.cpp's source (as in llama-cpp-python 0.3.36), for Intel's Xeons since Sapphire Rapids. A version
# without these lines ends the build, so that somebody looks whether it needs them.
function(mend file old new)
    set(path "${CMAKE_CURRENT_SOURCE_DIR}/vendor/llama.cpp/ggml/src/ggml-cpu/${file}")
    file(READ "${path}" source)
    string(FIND "${source}" "${new}" mended)
    string(FIND "${source}" "${old}" found)
    if(mended EQUAL -1 AND found EQUAL -1)
        message(FATAL_ERROR "${file} has changed: see whether it still needs what scripts/llama-only.cmake does to it")
    elseif(mended EQUAL -1)
        string(REPLACE "${old}" "${new}" source "${source}")
        file(WRITE "${path}" "${source}")
    endif()
endfunction()

# GCC 12.2 declares that _tile_loadconfig reads the first 8 bytes of the configuration, and so omits writing the
# other 56: AMX crashes with SIGSEGV. https://github.com/ggml-org/llama.cpp/pull/26954. With it, SmolLM2 reads prompts
# 3 to 4 times as fast and writes twice as fast.
mend(amx/mmq.cpp "_tile_loadconfig(&tc);" "__asm__ volatile(\"ldtilecfg %0\" : : \"m\"(tc));")

# Flash attention adds up the values of 128 elements of a head at a time with AVX512-FP16, and what is left one by one,
# with a table: heads of 64 take 5.7 times as long as in steps of 32, of 80 2.5 times, of 96 3 times.
set(width "\n#define GGML_F16_EPR  32")
mend(simd-mappings.h "#define GGML_F16_STEP 128${width}" "#define GGML_F16_STEP 32${width}")

# libllama builds graphs, which ggml computes: -O3 takes up to a third longer to compile than -O2 and decodes no faster
# (medians of six alternating runs: 52.5 and 52.1 tokens/s). The same is true of mtmd.
# The last -O on a command line takes effect.
#
# mtmd has a small file for each kind of vision model, all of which include the same large headers. Compiled ten at
# once, they take half the time: 27 s of one core for all of mtmd instead of 57 s.
#
# Deferred until the targets exist.
cmake_language(DEFER CALL cmake_language EVAL CODE [[
    foreach(library llama mtmd)
        if(TARGET ${library})
            target_compile_options(${library} PRIVATE
                "$<$<AND:$<CONFIG:Release>,$<COMPILE_LANG_AND_ID:CXX,GNU,Clang,AppleClang>>:-O2>")
        endif()
    endforeach()
    if(TARGET mtmd)
        get_target_property(sources mtmd SOURCES)
        get_target_property(folder mtmd SOURCE_DIR)
        list(FILTER sources EXCLUDE REGEX "^models/")
        list(TRANSFORM sources PREPEND "${folder}/")
        set_source_files_properties(${sources} TARGET_DIRECTORY mtmd PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
        set_target_properties(mtmd PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 10)
    endif()
]])
