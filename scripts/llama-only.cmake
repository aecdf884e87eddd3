# Included by CMake right after project(llama_cpp) of llama-cpp-python: build only libllama, ggml and mtmd.
#
# Its CMakeLists.txt switches llama.cpp's library "common" on in the cache. A normal variable hides the cached one
# (CMake policies CMP0077 and CMP0126). mtmd, which reads images, has done without it since llama.cpp 0.5.
set(LLAMA_BUILD_COMMON OFF)

add_compile_options("$<$<COMPILE_LANG_AND_ID:CXX,GNU>:SHELL:-include \"${CMAKE_CURRENT_LIST_DIR}/amx_tile_config.h\">")

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
