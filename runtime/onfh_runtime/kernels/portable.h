// What kernels need to be the same source for NVRTC, which has no header files, and for a host compiler (tests).
//
// A kernel is a struct of its arguments with two members:
//     DEVICE int steps() const;                                       how many steps a block takes
//     DEVICE void step(int i, const Thread& t, char* shared) const;   what one thread does in step i
// Between two steps of a block all its threads meet, so a step reads what any thread left in shared memory before.
// KERNEL(name, Struct, (parameters), arguments...) makes the entry of it.

typedef unsigned char u8;
typedef short i16;
typedef unsigned short u16;
typedef int i32;
typedef unsigned int u32;
typedef long long i64;

#ifdef __CUDACC__
#define DEVICE __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#define PRAGMA(text) _Pragma(#text)
#define UNROLL_BY(n) PRAGMA(unroll (n))
#else
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>
#define DEVICE inline
#define UNROLL
#define UNROLL_BY(n)
#define __restrict__ __restrict
using std::exp;
using std::fmax;
using std::fmin;
using std::tanh;
#endif

struct Index3 {
    int x, y, z;
};

struct Thread {
    int index;     // in its block; blocks are one-dimensional
    int count;     // of threads in the block
    Index3 block;  // which block
    Index3 blocks; // how many there are
};

// IEEE half as its bits: storing rounds to nearest, ties to even.
struct half_t {
    u16 bits;
};

DEVICE float to_float(float value) { return value; }

#ifdef __CUDACC__

DEVICE float to_float(half_t value) {
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
    return result;
}
DEVICE float float_from_bits(u32 bits) { return __uint_as_float(bits); }
DEVICE float saturate(float value) { return __saturatef(value); }
DEVICE void store(half_t* target, float value) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(target->bits) : "f"(value)); }

#else

inline float to_float(half_t value) {
    _Float16 half;
    std::memcpy(&half, &value, sizeof half);
    return static_cast<float>(half);
}
inline float float_from_bits(u32 bits) {
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}
inline float saturate(float value) { return fmin(fmax(value, 0.0f), 1.0f); }
inline void store(half_t* target, float value) {
    const _Float16 half = static_cast<_Float16>(value);
    std::memcpy(target, &half, sizeof half);
}

// One thread at a time runs here, so plain arithmetic is atomic. Each returns what was there before.
template <class T> T atomicAdd(T* place, T value) {
    const T old = *place;
    *place = old + value;
    return old;
}
template <class T> T atomicMin(T* place, T value) {
    const T old = *place;
    if (value < old) *place = value;
    return old;
}
template <class T> T atomicCAS(T* place, T expected, T value) {
    const T old = *place;
    if (old == expected) *place = value;
    return old;
}

#endif

DEVICE void store(float* target, float value) { *target = value; }

#ifdef __CUDACC__

// Registers are kept so few that a multiprocessor has room for four blocks.
#define KERNEL(name, Struct, PARAMETERS, ...)                                                                         \
    extern "C" __global__ void __launch_bounds__(256, 4) name PARAMETERS {                                            \
        extern __shared__ float4 shared_words[];                                                                      \
        const Struct work{__VA_ARGS__};                                                                               \
        const Thread thread{static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x),                              \
                            {static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y),                              \
                             static_cast<int>(blockIdx.z)},                                                           \
                            {static_cast<int>(gridDim.x), static_cast<int>(gridDim.y),                                \
                             static_cast<int>(gridDim.z)}};                                                           \
        const int steps = work.steps();                                                                               \
        for (int i = 0; i < steps; ++i) {                                                                             \
            if (i > 0) __syncthreads();                                                                               \
            work.step(i, thread, reinterpret_cast<char*>(shared_words));                                              \
        }                                                                                                             \
    }

#else

// Runs every block, one thread after the other. Odd blocks take their threads from the last to the first, and shared
// memory begins as NaN with a guard behind it, so that a missing meeting point or a wrong size shows in the results.
// Returns 0, 1 when a block wrote behind its shared memory, or 2 when the shape of the launch is not allowed.
template <class Struct>
int run_blocks(const Struct& work, const int* grid, const int* block, int shared_bytes) {
    const int guard = 64;
    if (block[0] < 1 || block[0] > 256 || block[1] != 1 || block[2] != 1) return 2;
    if (grid[1] > 65535 || grid[2] > 65535) return 2;
    std::vector<float> words((shared_bytes + guard + sizeof(float) - 1) / sizeof(float));
    char* shared = reinterpret_cast<char*>(words.data());
    bool odd = false;
    for (int z = 0; z < grid[2]; ++z)
        for (int y = 0; y < grid[1]; ++y)
            for (int x = 0; x < grid[0]; ++x, odd = !odd) {
                std::memset(shared, 0xff, shared_bytes + guard);
                const int steps = work.steps();
                for (int i = 0; i < steps; ++i)
                    for (int n = 0; n < block[0]; ++n) {
                        const int index = odd ? block[0] - 1 - n : n;
                        work.step(i, Thread{index, block[0], {x, y, z}, {grid[0], grid[1], grid[2]}}, shared);
                    }
                for (int n = 0; n < guard; ++n)
                    if (shared[shared_bytes + n] != static_cast<char>(0xff)) return 1;
            }
    return 0;
}

// Reads the arguments as cuLaunchKernel does: args[i] points to the value of parameter i.
template <class... P, std::size_t... I>
int call_entry(int (*entry)(const int*, const int*, int, P...), const int* grid, const int* block, int shared_bytes,
               void** args, std::index_sequence<I...>) {
    return entry(grid, block, shared_bytes, *static_cast<P*>(args[I])...);
}
template <class... P>
int call_entry(int (*entry)(const int*, const int*, int, P...), const int* grid, const int* block, int shared_bytes,
               void** args) {
    return call_entry(entry, grid, block, shared_bytes, args, std::index_sequence_for<P...>{});
}

#define UNPACKED(...) __VA_ARGS__
#define KERNEL(name, Struct, PARAMETERS, ...)                                                                         \
    static int entry_##name(const int* grid_, const int* block_, int shared_bytes_, UNPACKED PARAMETERS) {            \
        return run_blocks(Struct{__VA_ARGS__}, grid_, block_, shared_bytes_);                                         \
    }                                                                                                                 \
    extern "C" int host_##name(const int* grid, const int* block, int shared_bytes, void** args) {                    \
        return call_entry(&entry_##name, grid, block, shared_bytes, args);                                            \
    }

#endif
