#include <algorithm>

#include "opau/activation.hpp"
#include "ort/prepared.hpp"

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
class CpuKernel final : public PreparedKernel<T, const Activation> {
 public:
  using PreparedKernel<T, const Activation>::PreparedKernel;

 private:
  OrtStatus* compute(OrtKernelContext* context, const Activation& activation, const Run& run, const Extent& extent) const override {
    const int64_t count = extent.count();
    Work work{activation, run, extent, count, task_size(count), streams(this->dtype_, run.x.data, run.y, count)};
    if (count < 2 * kSmallest) {
      work.size = count;
      Work::task(&work, 0);
      return nullptr;
    }
    handed_over(&work);
    OrtStatus* status = this->api_.KernelContext_ParallelFor(context, Work::task, size_t((count + work.size - 1) / work.size), 0, &work);
    taken_over(&work);
    return status;
  }
};

}  // namespace

OrtStatus* make_cpu_kernel(const OrtApi& api, const OrtKernelInfo* info, OpKind kind, Dtype dtype, std::unique_ptr<Kernel>* out) {
  return make_prepared<CpuKernel>(api, info, kind, dtype, out);
}

}  // namespace opau::ort
