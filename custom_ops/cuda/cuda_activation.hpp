// An activation on a CUDA device. No CUDA header is needed to include this.
#pragma once
#include <memory>
#include <string>

#include "opau/prepare.hpp"

namespace opau {

// Immutable after upload(); serves any number of streams at once.
class CudaActivation {
 public:
  virtual ~CudaActivation() = default;

  // T is double for Dtype::float64, else float. Returns null and sets `error` for bad coefficients.
  template <class T>
  static std::unique_ptr<CudaActivation> make(const Config&, Dtype, const Coefficients<T>&, std::string* error);

  // Loads its code for the current device: 0, or a cudaError_t where the library holds none.
  virtual int load() const = 0;

  // Bytes of device memory that many groups want for their rows; 0: none. Without them the rows go by value, in several launches.
  virtual size_t device_bytes() const = 0;
  // Copies the rows there, and waits: 0, or a cudaError_t. The memory is the caller's, and stays as long as this.
  virtual int upload(void* memory) = 0;

  // Launches on `stream` (cudaStream_t) and returns at once: 0, or a cudaError_t. Allocates, copies and waits for nothing, so
  // that CUDA graphs can capture it. x and y are device pointers; x == y is allowed.
  virtual int run(const void* x, void* y, const Extent&, void* stream) const = 0;
};

// What a cudaError_t means.
const char* cuda_error_text(int error);

}  // namespace opau
