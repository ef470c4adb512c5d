#include <algorithm>

#include "opau/activation.hpp"
#include "ort/kernel.hpp"

namespace opau::ort {
namespace {

// Elements per task. Below 2 * kSmallest one thread is faster: waking another costs about as long as 16 Ki elements take (5 us).
// More tasks than threads level out what else the machine does; cache lines are never shared between tasks.
constexpr int64_t kSmallest = 16 * 1024, kLargest = 256 * 1024;

int64_t task_size(int64_t count) { return std::clamp(count / 64 / 64 * 64, kSmallest, kLargest); }

// Streaming stores save the read of the lines that are written over: at 16 Mi float32 elements 0.9 of the time on one core. They
// lose where y would stay in the cache, and for 16-bit types, which are bound by arithmetic.
constexpr int64_t kStreamBytes = 24 * 1024 * 1024;

bool streams(Dtype dtype, const void* x, const void* y, int64_t count) {
  return x != y && element_size(dtype) >= 4 && 2 * count * element_size(dtype) > kStreamBytes;
}

// onnxruntime's pool orders a task after the call that split it and before that call's return. It does so by atomics that the
// thread sanitizer does not see in a library it did not compile, so its build is told.
#ifdef __SANITIZE_THREAD__
extern "C" void __tsan_acquire(void*);
extern "C" void __tsan_release(void*);
void handed_over(void* to) { __tsan_release(to); }
void taken_over(void* from) { __tsan_acquire(from); }
#else
void handed_over(void*) {}
void taken_over(void*) {}
#endif

struct Work {
  const Activation& activation;
  const Run& run;
  const Extent& extent;
  int64_t count, size;
  bool stream;

  static void task(void* self, size_t index) {
    taken_over(self);
    const Work& w = *static_cast<const Work*>(self);
    const int64_t begin = int64_t(index) * w.size;
    w.activation.run(w.run.x.data, w.run.y, w.extent, begin, std::min(begin + w.size, w.count), w.stream);
    handed_over(self);
  }
};

template <class T>
class CpuKernel final : public Kernel {
 public:
  CpuKernel(const OrtApi& api, Node node, Dtype dtype) : api_(api), node_(std::move(node)), dtype_(dtype) {}

  Error prepare(const OrtKernelInfo* info) {
    Tensor numerator, denominator;
    bool constant = false;
    if (auto error = constant_inputs(api_, info, &numerator, &denominator, &constant); !error.empty()) return error;
    return constant ? make(numerator, denominator, &prepared_) : "";
  }

  OrtStatus* compute(OrtKernelContext* context) const override {
    Run run;
    Extent extent;
    if (auto error = run.read(api_, context); !error.empty()) return status(api_, node_.wrong(error), ORT_FAIL);
    if (auto error = node_.extent(run.x.shape, &extent); !error.empty()) return status(api_, error);
    std::unique_ptr<const Activation> made;
    if (!prepared_) {
      if (auto error = make(run.numerator, run.denominator, &made); !error.empty()) return status(api_, error);
    }
    return split(context, prepared_ ? *prepared_ : *made, run, extent);
  }

 private:
  const OrtApi& api_;
  const Node node_;
  const Dtype dtype_;
  std::unique_ptr<const Activation> prepared_;

  Error make(const Tensor& numerator, const Tensor& denominator, std::unique_ptr<const Activation>* out) const {
    Coefficients<T> c;
    Error error = node_.coefficients(numerator, denominator, &c);
    if (!error.empty()) return error;
    *out = Activation::make(node_.config, dtype_, c, &error);
    return node_.wrong(error);
  }

  OrtStatus* split(OrtKernelContext* context, const Activation& activation, const Run& run, const Extent& extent) const {
    const int64_t count = extent.count();
    if (count == 0) return nullptr;
    Work work{activation, run, extent, count, task_size(count), streams(dtype_, run.x.data, run.y, count)};
    if (count < 2 * kSmallest) {
      work.size = count;
      Work::task(&work, 0);
      return nullptr;
    }
    handed_over(&work);
    OrtStatus* status = api_.KernelContext_ParallelFor(context, Work::task, size_t((count + work.size - 1) / work.size), 0, &work);
    taken_over(&work);
    return status;
  }
};

template <class T>
OrtStatus* make(const OrtApi& api, const OrtKernelInfo* info, Node node, Dtype dtype, std::unique_ptr<Kernel>* out) {
  auto kernel = std::make_unique<CpuKernel<T>>(api, std::move(node), dtype);
  if (auto error = kernel->prepare(info); !error.empty()) return status(api, error);
  *out = std::move(kernel);
  return nullptr;
}

}  // namespace

OrtStatus* make_cpu_kernel(const OrtApi& api, const OrtKernelInfo* info, Dtype dtype, std::unique_ptr<Kernel>* out) {
  Node node;
  if (auto error = node.read(api, info); !error.empty()) return status(api, error);
  return dtype == Dtype::float64 ? make<double>(api, info, std::move(node), dtype, out)
                                 : make<float>(api, info, std::move(node), dtype, out);
}

}  // namespace opau::ort
