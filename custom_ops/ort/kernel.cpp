#include "ort/kernel.hpp"

namespace opau::ort {

Error constant_inputs(const OrtApi& api, const OrtKernelInfo* info, Tensor* numerator, Tensor* denominator, bool* constant) {
  Tensor* const out[] = {numerator, denominator};
  *constant = true;
  for (size_t i = 0; i < 2; ++i) {
    int known = 0;
    const OrtValue* value = nullptr;
    if (auto error = take(api, api.KernelInfoGetConstantInput_tensor(info, i + 1, &known, &value)); !error.empty()) return error;
    if (!known) {
      *constant = false;
      return "";
    }
    if (auto error = read(api, value, out[i]); !error.empty()) return error;
  }
  return "";
}

Error Run::read(const OrtApi& api, OrtKernelContext* context, bool coefficients) {
  Tensor* const inputs[] = {&x, &numerator, &denominator};
  for (size_t i = 0; i < (coefficients ? 3 : 1); ++i) {
    const OrtValue* value = nullptr;
    if (auto error = take(api, api.KernelContext_GetInput(context, i, &value)); !error.empty()) return error;
    if (auto error = ort::read(api, value, inputs[i]); !error.empty()) return error;
  }
  OrtValue* out = nullptr;
  if (auto error = take(api, api.KernelContext_GetOutput(context, 0, x.shape.data(), x.shape.size(), &out)); !error.empty()) return error;
  return take(api, api.GetTensorMutableData(out, &y));
}

}  // namespace opau::ort
