// Included before every C++ file of llama.cpp by build.sh.
//
// GCC before 13.2.1 declares `_tile_loadconfig` as reading 8 of the 64 bytes of the tile configuration. The optimiser then drops
// the stores to the other 56, and llama.cpp dies of a general protection fault in its first AMX product. This is the same
// instruction with the whole operand declared; everything else of llama.cpp stays as its authors wrote it.
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 14
#include <immintrin.h>
#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg\t%X0" ::"m"(*(const char(*)[64])(config)))
#endif
