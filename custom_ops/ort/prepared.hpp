// What kernels of all providers share: the coefficients become an A (const Activation, CudaActivation) once, when the kernel is made
// and they are constant, else in each run.
#pragma once
#include "ort/kernel.hpp"

namespace opau::ort {

template <class T, class A>
class PreparedKernel : public Kernel {
 public:
  PreparedKernel(const OrtApi& api, Node node, Dtype dtype) : api_(api), node_(std::move(node)), dtype_(dtype) {}

  Error prepare(const OrtKernelInfo* info) {
    if (node_.kind == OpKind::fixed) {
      std::vector<T> owned;
      Coefficients<T> c;
      Error error = node_.coefficients(api_, info, &owned, &c);
      return error.empty() ? make(c, &prepared_) : error;
    }
    Tensor numerator, denominator;
    bool constant = false;
    if (auto error = constant_inputs(api_, info, &numerator, &denominator, &constant); !error.empty()) return error;
    return constant ? make(numerator, denominator, &prepared_) : "";
  }

  OrtStatus* compute(OrtKernelContext* context) const final {
    Run run;
    Extent extent;
    if (auto error = run.read(api_, context, !prepared_); !error.empty()) return status(api_, node_.wrong(error), ORT_FAIL);
    if (auto error = node_.extent(run.x.shape, &extent); !error.empty()) return status(api_, error);
    std::unique_ptr<A> made;
    if (!prepared_) {
      if (auto error = make(run.numerator, run.denominator, &made); !error.empty()) return status(api_, error);
    }
    return extent.count() == 0 ? nullptr : compute(context, prepared_ ? *prepared_ : *made, run, extent);
  }

 protected:
  const OrtApi& api_;
  const Node node_;
  const Dtype dtype_;
  std::unique_ptr<A> prepared_;

  virtual OrtStatus* compute(OrtKernelContext*, const A&, const Run&, const Extent&) const = 0;

 private:
  Error make(const Tensor& numerator, const Tensor& denominator, std::unique_ptr<A>* out) const {
    Coefficients<T> c;
    Error error = node_.coefficients(numerator, denominator, &c);
    return error.empty() ? make(c, out) : error;
  }

  Error make(const Coefficients<T>& c, std::unique_ptr<A>* out) const {
    Error error;
    *out = A::make(node_.config, dtype_, c, &error);
    return node_.wrong(error);
  }
};

// K<T> for the dtype that is computed in.
template <template <class> class K>
OrtStatus* make_prepared(const OrtApi& api, const OrtKernelInfo* info, OpKind kind, Dtype dtype, std::unique_ptr<Kernel>* out) {
  Node node;
  if (auto error = node.read(api, info, kind); !error.empty()) return status(api, error);
  const auto made = [&](auto kernel) -> OrtStatus* {
    if (auto error = kernel->prepare(info); !error.empty()) return status(api, error);
    *out = std::move(kernel);
    return nullptr;
  };
  return dtype == Dtype::float64 ? made(std::make_unique<K<double>>(api, std::move(node), dtype))
                                 : made(std::make_unique<K<float>>(api, std::move(node), dtype));
}

}  // namespace opau::ort
