/* Included first by every C++ file of llama.cpp that GCC compiles: load a tile configuration of AMX completely.
 *
 * GCC before 13.3 declares that ldtilecfg reads the first 8 of its 64 bytes, and so omits writing the others. llama.cpp
 * then crashes with SIGSEGV in its first batch: seen with GCC 12.2 and llama-cpp-python 0.3.36,
 * https://github.com/ggml-org/llama.cpp/pull/26954.
 */
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>

static inline __attribute__((always_inline)) void load_whole_tile_config(const void *config) {
    __asm__ volatile("ldtilecfg\t%X0" : : "m"(*(const char(*)[64])config));
}
#define _tile_loadconfig load_whole_tile_config
#endif
