// A CUDA runtime without a GPU: copies happen only once the thread that began them waits, and a copy from or to host memory that is
// not pinned, or by a thread that has chosen no device, is refused. NVIDIA's own header, where it is there, checks the signatures.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <vector>

#if __has_include(<cuda_runtime_api.h>)
#include <cuda_runtime_api.h>
#else
#define CUDARTAPI
extern "C" {
typedef int cudaError_t;
typedef struct CUstream_st* cudaStream_t;
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };
}
#define cudaSuccess 0
#define cudaErrorInvalidValue 1
#define cudaErrorInvalidDevice 101
#define cudaErrorInvalidResourceHandle 400
#define cudaStreamPerThread ((cudaStream_t)0x2)
#endif

namespace {
struct Copy {
  void* to;
  const void* from;
  std::size_t size;
};
struct Block {
  const char* begin;
  std::size_t size;
};
std::mutex mutex;
std::vector<Block> blocks;
thread_local std::vector<Copy> begun;
thread_local int device = -1;

bool pinned(const void* address, std::size_t size) {
  std::lock_guard<std::mutex> lock(mutex);
  const char* begin = static_cast<const char*>(address);
  for (const Block& block : blocks)
    if (begin >= block.begin && begin + size <= block.begin + block.size) return true;
  return false;
}
}  // namespace

extern "C" {

int stub_allocations() {
  std::lock_guard<std::mutex> lock(mutex);
  return static_cast<int>(blocks.size());
}

cudaError_t CUDARTAPI cudaSetDevice(int wanted) {
  if (wanted != 0) return cudaErrorInvalidDevice;
  device = wanted;
  return cudaSuccess;
}

cudaError_t CUDARTAPI cudaHostAlloc(void** address, std::size_t size, unsigned int flags) {
  if (device != 0) return cudaErrorInvalidDevice;
  if (flags != 0) return cudaErrorInvalidValue;
  *address = std::aligned_alloc(4096, size);
  std::memset(*address, 0xFF, size);
  std::lock_guard<std::mutex> lock(mutex);
  blocks.push_back({static_cast<const char*>(*address), size});
  return cudaSuccess;
}

cudaError_t CUDARTAPI cudaMemcpyAsync(void* to, const void* from, std::size_t size, cudaMemcpyKind kind, cudaStream_t stream) {
  if (device != 0) return cudaErrorInvalidDevice;
  if (stream != cudaStreamPerThread) return cudaErrorInvalidResourceHandle;
  const bool up = kind == cudaMemcpyHostToDevice;
  if (size == 0 || (!up && kind != cudaMemcpyDeviceToHost)) return cudaErrorInvalidValue;
  if (!pinned(up ? from : to, size) || pinned(up ? to : from, 1)) return cudaErrorInvalidValue;
  begun.push_back({to, from, size});
  return cudaSuccess;
}

cudaError_t CUDARTAPI cudaStreamSynchronize(cudaStream_t stream) {
  if (stream != cudaStreamPerThread) return cudaErrorInvalidResourceHandle;
  for (const Copy& copy : begun) std::memcpy(copy.to, copy.from, copy.size);
  begun.clear();
  return cudaSuccess;
}

const char* CUDARTAPI cudaGetErrorString(cudaError_t error) {
  switch (static_cast<int>(error)) {
    case 101: return "invalid device ordinal";
    case 1: return "invalid argument";
    default: return "other";
  }
}
}
