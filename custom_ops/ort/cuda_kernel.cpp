// The CUDA provider's kernels: they launch on onnxruntime's stream and return; CUDA's errors become statuses.
#if OPAU_WITH_CUDA
#include "cuda/cuda_activation.hpp"
#include "ort/prepared.hpp"

namespace opau::ort {
namespace {

template <class T>
class CudaKernel final : public PreparedKernel<T, CudaActivation> {
 public:
  using Base = PreparedKernel<T, CudaActivation>;
  using Base::Base;

  // Also loads the code for this device, so that a device without any is told of when the session is made, and so that nothing is
  // loaded while a CUDA graph is captured.
  Error prepare(const OrtKernelInfo* info) {
    if (auto error = Base::prepare(info); !error.empty() || !this->prepared_) return error;
    return failed("no CUDA kernel can be loaded", this->prepared_->load());
  }

 private:
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

OrtStatus* make_cuda_kernel(const OrtApi& api, const OrtKernelInfo* info, Dtype dtype, std::unique_ptr<Kernel>* out) {
  return make_prepared<CudaKernel>(api, info, dtype, out);
}

}  // namespace opau::ort
#endif
