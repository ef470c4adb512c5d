// Forward and backward for training: coefficients change from call to call, so nothing of them is kept.
#pragma once
#include "opau/activation.hpp"
#include "opau/gradient_kernels.hpp"

namespace opau {

const GradientKernels& gradient_kernels(const InstructionSet&);

// Runs body(begin, end, context) over [0, count) in pieces, on as many threads as it likes.
using ParallelBody = void (*)(int64_t begin, int64_t end, void* context);
struct Parallel {
  virtual ~Parallel() = default;
  virtual void run(int64_t count, ParallelBody body, void* context) const = 0;
};

// What comes of a backward pass: dx as x, or null; the sums by c_i and d_j, summed in double and rounded once, or null:
// numerator (rows, k + 1) and denominator (rows, size), where rows are those of the coefficients.
template <class T>
struct Gradients {
  void* dx;
  T* numerator;
  T* denominator;
};

// y = f(x), with the inference kernel's bits. Returns "".
template <class T>
std::string train_forward(const Config&, Dtype, const Coefficients<T>&, const InstructionSet&, const void* x, void* y, const Extent&,
                          const Parallel&);
// The gradients of sum(g y). x, g and dx lie alike; dx may overlap neither. The bits do not depend on the number of threads.
template <class T>
std::string train_backward(const Config&, Dtype, const Coefficients<T>&, const InstructionSet&, const void* x, const void* g,
                           const Gradients<T>&, const Extent&, const Parallel&);

}  // namespace opau
