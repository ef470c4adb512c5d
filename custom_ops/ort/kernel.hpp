// A node's kernel, whichever provider runs it.
#pragma once
#include <memory>

#include "ort/api.hpp"

namespace opau::ort {

// Contract: compute() is const and keeps nothing, so one kernel serves any number of concurrent runs.
class Kernel {
 public:
  virtual ~Kernel() = default;
  virtual OrtStatus* compute(OrtKernelContext*) const = 0;
};

// Kernels of one provider for one dtype; `out` owns the kernel.
using MakeKernel = OrtStatus* (*)(const OrtApi&, const OrtKernelInfo*, OpKind, Dtype, std::unique_ptr<Kernel>* out);
OrtStatus* make_cpu_kernel(const OrtApi&, const OrtKernelInfo*, OpKind, Dtype, std::unique_ptr<Kernel>* out);
OrtStatus* make_cuda_kernel(const OrtApi&, const OrtKernelInfo*, OpKind, Dtype, std::unique_ptr<Kernel>* out);

// The coefficients, where both are constant initializers: `constant` says whether they are.
Error constant_inputs(const OrtApi&, const OrtKernelInfo*, Tensor* numerator, Tensor* denominator, bool* constant);
// X, the coefficients (where they are inputs) and Y (of X's shape) of one run.
struct Run {
  Tensor x, numerator, denominator;
  void* y = nullptr;
  Error read(const OrtApi&, OrtKernelContext*, bool coefficients);
};

}  // namespace opau::ort
