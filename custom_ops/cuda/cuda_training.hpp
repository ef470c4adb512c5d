// Forward and backward on a CUDA device, for coefficients that live there. No CUDA header is needed to include this.
#pragma once
#include <memory>

#include "opau/prepare.hpp"

namespace opau {

// The coefficients' rows: 1, or config.groups. Pointers to device memory, of double for Dtype::float64, else of float.
struct CudaCoefficients {
  const void* numerator;
  int64_t numerator_rows;
  const void* denominator;
  int64_t denominator_rows;
  int64_t rows() const { return numerator_rows > denominator_rows ? numerator_rows : denominator_rows; }
};

// Device memory of a backward pass: dx as x, or null; gradients in the coefficients' shapes and dtype, or null.
struct CudaGradients {
  void* dx;
  void* numerator;
  void* denominator;
};

// Stateless: serves any number of streams, threads and devices. Launches on `stream` (cudaStream_t) and returns at once: 0, or a
// cudaError_t. Allocates, copies and waits for nothing, so that CUDA graphs can capture it.
class CudaTraining {
 public:
  virtual ~CudaTraining() = default;

  static std::unique_ptr<CudaTraining> make(const Config&, Dtype);

  // Bytes of device memory, aligned to 16, that a call needs from its caller until it has run.
  virtual size_t workspace(const Extent&, int64_t rows, bool sums) const = 0;
  virtual int forward(const CudaCoefficients&, const void* x, void* y, const Extent&, void* workspace, void* stream) const = 0;
  // dx may overlap neither x nor g.
  virtual int backward(const CudaCoefficients&, const void* x, const void* g, const CudaGradients&, const Extent&, void* workspace,
                       void* stream) const = 0;
};

}  // namespace opau
