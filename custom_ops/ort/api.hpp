// onnxruntime's C API as far as we use it, with errors as values: no exception of ours crosses into onnxruntime.
#pragma once
#include <new>
#include <exception>
#include <string>
#include <vector>

#include "onnxruntime_c_api.h"
#include "opau/prepare.hpp"

namespace opau::ort {

// What went wrong; empty: nothing.
using Error = std::string;

inline OrtStatus* status(const OrtApi& api, const Error& error, OrtErrorCode code = ORT_INVALID_ARGUMENT) {
  return error.empty() ? nullptr : api.CreateStatus(code, error.c_str());
}

// Runs a callback's body, which returns OrtStatus*, and turns exceptions into statuses.
template <class Body>
OrtStatus* guarded(const OrtApi& api, const Body& body) noexcept {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return api.CreateStatus(ORT_FAIL, "opau_onnx: out of memory");
  } catch (const std::exception& error) {
    return api.CreateStatus(ORT_FAIL, error.what());
  } catch (...) {
    return api.CreateStatus(ORT_FAIL, "opau_onnx: unknown error");
  }
}

// A tensor that belongs to onnxruntime.
struct Tensor {
  const void* data = nullptr;
  std::vector<int64_t> shape;
};

Error take(const OrtApi&, OrtStatus*);  // its message; releases it
Error read(const OrtApi&, const OrtValue*, Tensor*);
Error read_shape(const OrtApi&, OrtTensorTypeAndShapeInfo*, std::vector<int64_t>*);  // releases the info
std::string text(const std::vector<int64_t>& shape);

// The two ops: coefficients as inputs, or as attributes with an optional affine before the activation.
enum class OpKind { learned, fixed };
const char* op_type(OpKind);

// What a node says of itself.
struct Node {
  OpKind kind = OpKind::learned;
  std::string name;
  Config config;
  int64_t axis = 1;

  Error read(const OrtApi&, const OrtKernelInfo*, OpKind);
  // Errors of this node: which it is, then what is wrong.
  Error wrong(const Error& what) const;
  // Coefficients from the node's two inputs; shapes are checked, values are not.
  template <class T>
  Error coefficients(const Tensor& numerator, const Tensor& denominator, Coefficients<T>* out) const;
  // The same from the attributes of a fixed node; they live in `owned`.
  template <class T>
  Error coefficients(const OrtApi&, const OrtKernelInfo*, std::vector<T>* owned, Coefficients<T>* out) const;
  // How X's shape splits around its channels.
  Error extent(const std::vector<int64_t>& shape, Extent* out) const;
};

}  // namespace opau::ort
