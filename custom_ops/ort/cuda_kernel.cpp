// The CUDA provider's kernels: they launch on onnxruntime's stream and return; CUDA's errors become statuses.
#if OPAU_WITH_CUDA
#include "cuda/cuda_activation.hpp"
#include "ort/prepared.hpp"

namespace opau::ort {
namespace {

// Memory of onnxruntime's own allocator for the kernel's device.
class DeviceMemory {
 public:
  explicit DeviceMemory(const OrtApi& api) : api_(api) {}
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  ~DeviceMemory() {
    if (data_) take(api_, api_.AllocatorFree(allocator_, data_));
    if (allocator_) api_.ReleaseAllocator(allocator_);
  }

  Error allocate(const OrtKernelInfo* info, size_t bytes) {
    if (auto error = take(api_, api_.KernelInfoGetAllocator(info, OrtMemTypeDefault, &allocator_)); !error.empty()) return error;
    return take(api_, api_.AllocatorAlloc(allocator_, bytes, &data_));
  }
  void* data() const { return data_; }

 private:
  const OrtApi& api_;
  OrtAllocator* allocator_ = nullptr;
  void* data_ = nullptr;
};

template <class T>
class CudaKernel final : public PreparedKernel<T, CudaActivation> {
 public:
  using Base = PreparedKernel<T, CudaActivation>;
  CudaKernel(const OrtApi& api, Node node, Dtype dtype) : Base(api, std::move(node), dtype), memory_(api) {}

  // Whatever would allocate, copy or load code is done here for constant coefficients, so that runs can be captured in CUDA graphs;
  // and a device that the library has no code for is told of when the session is made.
  Error prepare(const OrtKernelInfo* info) {
    if (auto error = Base::prepare(info); !error.empty() || !this->prepared_) return error;
    if (auto error = failed("no CUDA kernel can be loaded", this->prepared_->load()); !error.empty()) return error;
    const size_t bytes = this->prepared_->device_bytes();
    if (bytes == 0) return "";
    if (auto error = memory_.allocate(info, bytes); !error.empty()) return this->node_.wrong(error);
    return failed("the coefficients could not be copied to the device", this->prepared_->upload(memory_.data()));
  }

 private:
  DeviceMemory memory_;

  Error failed(const char* what, int error) const {
    return error ? this->node_.wrong(std::string(what) + ": " + cuda_error_text(error)) : "";
  }

  OrtStatus* compute(OrtKernelContext* context, const CudaActivation& activation, const Run& run, const Extent& extent) const override {
    void* stream = nullptr;
    if (OrtStatus* status = this->api_.KernelContext_GetGPUComputeStream(context, &stream)) return status;
    return status(this->api_, failed("the CUDA launch failed", activation.run(run.x.data, run.y, extent, stream)), ORT_EP_FAIL);
  }
};

}  // namespace

OrtStatus* make_cuda_kernel(const OrtApi& api, const OrtKernelInfo* info, OpKind kind, Dtype dtype, std::unique_ptr<Kernel>* out) {
  return make_prepared<CudaKernel>(api, info, kind, dtype, out);
}

}  // namespace opau::ort
#endif
