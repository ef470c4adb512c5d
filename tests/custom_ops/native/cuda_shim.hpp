// Runs CUDA kernels on the host, one thread after the other. Force-included before everything else; g++ compiles the .cu files then.
//
// A block runs twice where it has a barrier: first every thread up to it, then every thread from the start to the end, the barrier
// being nothing. That is right for kernels that only fill shared memory, with the same values, before their one barrier.
#pragma once
#define OPAU_SHIM
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#undef __global__
#undef __device__
#undef __shared__
#undef __forceinline__
#undef __grid_constant__
#undef __launch_bounds__
#define __global__
#define __device__
#define __shared__ static
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define threadIdx shim::thread
#define blockIdx shim::block
#define blockDim shim::block_size
#define gridDim shim::grid_size
#define __syncthreads shim::barrier
#define OPAU_DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(shim::dynamic.data())

namespace shim {

struct Barrier {};
inline dim3 thread, block, block_size, grid_size;
inline bool stops = false;
inline std::vector<uint64_t> dynamic;  // as long as the launch asked for, so that the address sanitizer sees what is beyond
inline void barrier() {
  if (stops) throw Barrier{};
}

// Set by the tests.
inline int processors = 4;
inline unsigned largest_x = 0, largest_y = 0;  // 0: grids as they are asked for
inline int64_t piece_limit = int64_t(1) << 30;
inline int launches = 0;

// Which thread wrote what: after each one, elements that are no longer the sentinel are counted, put away and made sentinels again.
struct Watch {
  unsigned char *y = nullptr, *result = nullptr;
  int64_t count = 0, size = 0;
  int32_t* writes = nullptr;
  static constexpr unsigned char kSentinel = 0x7b;

  void look() const {
    unsigned char sentinel[8];
    std::memset(sentinel, kSentinel, sizeof(sentinel));
    for (int64_t i = 0; i < count; ++i) {
      if (std::memcmp(y + i * size, sentinel, size_t(size)) == 0) continue;
      ++writes[i];
      std::memcpy(result + i * size, y + i * size, size_t(size));
      std::memcpy(y + i * size, sentinel, size_t(size));
    }
  }
};
inline Watch watch;

// Whether the thread came to its end.
template <class Call>
bool run_thread(unsigned index, const Call& call) {
  thread = dim3(index % block_size.x, index / block_size.x % block_size.y, index / block_size.x / block_size.y);
  try {
    call();
  } catch (Barrier) {
    return false;
  }
  if (watch.writes) watch.look();
  return true;
}

template <class Call>
void run_block(const Call& call) {
  const unsigned count = block_size.x * block_size.y * block_size.z;
  stops = true;
  const bool barrier = !run_thread(0, call);
  for (unsigned i = 1; i < count; ++i) run_thread(i, call);
  stops = false;
  for (unsigned i = 0; barrier && i < count; ++i) run_thread(i, call);
}

inline dim3 smaller(dim3 grid) {
  return dim3(largest_x ? std::min(grid.x, largest_x) : grid.x, largest_y ? std::min(grid.y, largest_y) : grid.y, grid.z);
}

}  // namespace shim

namespace opau::cuda {

template <class... P>
cudaError_t loaded(void (*)(P...)) {
  return cudaSuccess;
}

template <class... P, class... A>
cudaError_t enqueue(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t, const A&... arguments) {
  if (grid.y > 65535 || grid.z > 65535 || block.x * block.y * block.z > 1024 || shared > 48 * 1024) return cudaErrorInvalidConfiguration;
  ++shim::launches;
  shim::grid_size = shim::smaller(grid);
  shim::block_size = block;
  shim::dynamic.assign((shared + 7) / 8, ~uint64_t(0));
  const dim3 g = shim::grid_size;
  for (shim::block.z = 0; shim::block.z < g.z; ++shim::block.z)
    for (shim::block.y = 0; shim::block.y < g.y; ++shim::block.y)
      for (shim::block.x = 0; shim::block.x < g.x; ++shim::block.x) shim::run_block([&] { kernel(arguments...); });
  return cudaSuccess;
}

}  // namespace opau::cuda
