#include "ort/api.hpp"

#include <algorithm>

namespace opau::ort {

Error take(const OrtApi& api, OrtStatus* status) {
  if (!status) return "";
  Error message = api.GetErrorMessage(status);
  api.ReleaseStatus(status);
  return message.empty() ? "onnxruntime failed without a message" : message;
}

Error read_shape(const OrtApi& api, OrtTensorTypeAndShapeInfo* info, std::vector<int64_t>* shape) {
  size_t rank = 0;
  Error error = take(api, api.GetDimensionsCount(info, &rank));
  shape->resize(rank);
  if (error.empty()) error = take(api, api.GetDimensions(info, shape->data(), rank));
  api.ReleaseTensorTypeAndShapeInfo(info);
  return error;
}

Error read(const OrtApi& api, const OrtValue* value, Tensor* out) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  if (auto error = take(api, api.GetTensorTypeAndShape(value, &info)); !error.empty()) return error;
  if (auto error = read_shape(api, info, &out->shape); !error.empty()) return error;
  void* data = nullptr;
  const Error error = take(api, api.GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  out->data = data;
  return error;
}

std::string text(const std::vector<int64_t>& shape) {
  std::string out = "(";
  for (size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + (shape.size() == 1 ? ",)" : ")");
}

namespace {

Error node_name(const OrtApi& api, const OrtKernelInfo* info, std::string* out) {
  size_t size = 0;
  if (auto error = take(api, api.KernelInfo_GetNodeName(info, nullptr, &size)); !error.empty()) return error;
  out->resize(size);
  if (auto error = take(api, api.KernelInfo_GetNodeName(info, out->data(), &size)); !error.empty()) return error;
  out->resize(size ? size - 1 : 0);  // the size counts the final 0
  return "";
}

Error missing(const char* name) {
  return std::string("attribute '") + name + "' is missing; every node of this type needs it: write the model again";
}

Error attribute(const OrtApi& api, const OrtKernelInfo* info, const char* name, std::string* out) {
  size_t size = 0;
  if (!take(api, api.KernelInfoGetAttribute_string(info, name, nullptr, &size)).empty()) return missing(name);
  out->resize(size);
  if (!take(api, api.KernelInfoGetAttribute_string(info, name, out->data(), &size)).empty()) return missing(name);
  out->resize(size ? size - 1 : 0);
  return "";
}

Error attribute(const OrtApi& api, const OrtKernelInfo* info, const char* name, std::vector<int64_t>* out) {
  size_t size = 0;
  if (!take(api, api.KernelInfoGetAttributeArray_int64(info, name, nullptr, &size)).empty()) return missing(name);
  out->resize(size);
  return take(api, api.KernelInfoGetAttributeArray_int64(info, name, out->data(), &size));
}

// Whether there is an attribute of this name that is no whole number.
bool of_another_type(const OrtApi& api, const OrtKernelInfo* info, const char* name) {
  float number = 0;
  size_t size = 0, text_size = 0, numbers = 0;
  const bool found[] = {
      take(api, api.KernelInfoGetAttribute_float(info, name, &number)).empty(),
      take(api, api.KernelInfoGetAttribute_string(info, name, nullptr, &text_size)).empty(),
      take(api, api.KernelInfoGetAttributeArray_int64(info, name, nullptr, &size)).empty(),
      take(api, api.KernelInfoGetAttributeArray_float(info, name, nullptr, &numbers)).empty(),
  };
  return found[0] || found[1] || found[2] || found[3];
}

// `out` keeps its value where the attribute is missing: the definition has a default for these.
Error optional(const OrtApi& api, const OrtKernelInfo* info, const char* name, int64_t* out) {
  int64_t value = 0;
  if (take(api, api.KernelInfoGetAttribute_int64(info, name, &value)).empty()) {
    *out = value;
  } else if (of_another_type(api, info, name)) {
    return std::string("attribute '") + name + "' is not a whole number; expected one (ONNX's type INT)";
  }
  return "";
}

Error rows(const char* what, const std::vector<int64_t>& shape, int64_t groups, int64_t size, int64_t* out) {
  const bool shared = shape == std::vector<int64_t>{size};
  const bool own = groups > 1 && shape == std::vector<int64_t>{groups, size};
  *out = own ? groups : 1;
  if (shared || own) return "";
  std::string expected = text({size});
  if (groups > 1) expected += " or " + text({groups, size});
  return std::string("the ") + what + " has shape " + text(shape) + "; expected " + expected;
}

// A tensor attribute of the kernel's own float type, appended to `out`; `found` says whether it is there.
template <class T>
Error attribute(const OrtApi& api, const OrtKernelInfo* info, const char* name, std::vector<T>* out, std::vector<int64_t>* shape, bool* found) {
  OrtAllocator* allocator = nullptr;
  if (auto error = take(api, api.GetAllocatorWithDefaultOptions(&allocator)); !error.empty()) return error;
  OrtValue* value = nullptr;
  *found = take(api, api.KernelInfoGetAttribute_tensor(info, name, allocator, &value)).empty() && value;
  if (!*found) return "";
  OrtTensorTypeAndShapeInfo* described = nullptr;
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  Tensor tensor;
  Error error = take(api, api.GetTensorTypeAndShape(value, &described));
  if (error.empty()) error = take(api, api.GetTensorElementType(described, &type));
  if (described) api.ReleaseTensorTypeAndShapeInfo(described);
  if (error.empty()) error = read(api, value, &tensor);
  const auto expected = sizeof(T) == 8 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  if (error.empty() && type != expected) {
    error = std::string("attribute '") + name + "' is not of type " + (sizeof(T) == 8 ? "double" : "float") + ", in which this node is computed";
  }
  if (error.empty()) {
    int64_t count = 1;
    for (int64_t n : tensor.shape) count *= n;
    out->insert(out->end(), static_cast<const T*>(tensor.data), static_cast<const T*>(tensor.data) + count);
    *shape = tensor.shape;
  }
  api.ReleaseValue(value);
  return error;
}

}  // namespace

const char* op_type(OpKind kind) { return kind == OpKind::fixed ? tables::kFixedOpType : tables::kOpType; }

Error Node::read(const OrtApi& api, const OrtKernelInfo* info, OpKind op) {
  kind = op;
  std::string basis, form;
  std::vector<int64_t> degrees;
  int64_t groups = 1;
  if (auto error = node_name(api, info, &name); !error.empty()) return error;
  if (auto error = attribute(api, info, "basis", &basis); !error.empty()) return wrong(error);
  if (auto error = attribute(api, info, "form", &form); !error.empty()) return wrong(error);
  if (auto error = attribute(api, info, "degrees", &degrees); !error.empty()) return wrong(error);
  if (degrees.size() != 2) return wrong("attribute 'degrees' has " + std::to_string(degrees.size()) + " values; expected two, (k, l)");
  if (auto error = optional(api, info, "groups", &groups); !error.empty()) return wrong(error);
  if (auto error = optional(api, info, "axis", &axis); !error.empty()) return wrong(error);
  // Not of the definition: written where a model is rewritten for one machine, and only there.
  if (auto error = optional(api, info, "channel_block", &config.block); !error.empty()) return wrong(error);
  if (auto error = block_error(config.block); !error.empty()) return wrong("attribute 'channel_block'" + error);
  return wrong(find_config(basis, form, degrees[0], degrees[1], groups, &config));
}

Error Node::wrong(const Error& what) const {
  return what.empty() ? "" : std::string(op_type(kind)) + " node '" + name + "': " + what;
}

template <class T>
Error Node::coefficients(const Tensor& numerator, const Tensor& denominator, Coefficients<T>* out) const {
  out->numerator = static_cast<const T*>(numerator.data);
  out->denominator = static_cast<const T*>(denominator.data);
  auto error = rows("numerator", numerator.shape, config.groups, numerator_size(config), &out->numerator_rows);
  if (error.empty()) {
    error = rows("denominator", denominator.shape, config.groups, denominator_size(config), &out->denominator_rows);
  }
  return wrong(error);
}

template Error Node::coefficients(const Tensor&, const Tensor&, Coefficients<float>*) const;
template Error Node::coefficients(const Tensor&, const Tensor&, Coefficients<double>*) const;

template <class T>
Error Node::coefficients(const OrtApi& api, const OrtKernelInfo* info, std::vector<T>* owned, Coefficients<T>* out) const {
  constexpr const char* names[] = {"numerator", "denominator", "scale", "shift"};
  size_t begin[4];
  Tensor tensors[4];
  bool found[4];
  for (int i = 0; i < 4; ++i) {
    begin[i] = owned->size();
    if (auto error = attribute(api, info, names[i], owned, &tensors[i].shape, &found[i]); !error.empty()) return wrong(error);
  }
  // A denominator without coefficients may be left out: an attribute cannot be told from an empty one everywhere.
  if (!found[0]) return wrong(missing(names[0]));
  if (!found[1] && denominator_size(config)) return wrong(missing(names[1]));
  if (!found[1]) tensors[1].shape = {0};
  if (found[2] != found[3]) return wrong("of the attributes 'scale' and 'shift' only one is there; expected both or none");
  for (int i = 0; i < 4; ++i) tensors[i].data = owned->data() + begin[i];
  if (auto error = coefficients(tensors[0], tensors[1], out); !error.empty()) return error;
  if (!found[2]) return "";
  for (int i = 2; i < 4; ++i) {
    if (tensors[i].shape != std::vector<int64_t>{config.groups}) {
      return wrong(std::string("the ") + names[i] + " has shape " + text(tensors[i].shape) + "; expected " + text({config.groups}));
    }
  }
  out->scale = static_cast<const T*>(tensors[2].data);
  out->shift = static_cast<const T*>(tensors[3].data);
  out->affine_rows = config.groups;
  return "";
}

template Error Node::coefficients(const OrtApi&, const OrtKernelInfo*, std::vector<float>*, Coefficients<float>*) const;
template Error Node::coefficients(const OrtApi&, const OrtKernelInfo*, std::vector<double>*, Coefficients<double>*) const;

Error Node::extent(const std::vector<int64_t>& shape, Extent* out) const {
  *out = Extent{1, 1, 1};
  const int64_t rank = int64_t(shape.size());
  const int64_t channel_axis = axis < 0 ? axis + rank : axis;
  if (config.groups > 1 && (channel_axis < 0 || channel_axis >= rank)) {
    return wrong("the input has shape " + text(shape) + ", which has no axis " + std::to_string(axis) + " for " +
                 std::to_string(config.groups) + " groups");
  }
  for (int64_t i = 0; i < rank; ++i) {
    int64_t& part = config.groups == 1 || i > channel_axis ? out->inner : i < channel_axis ? out->outer : out->channels;
    part *= shape[size_t(i)];
  }
  if (out->channels % config.groups) {
    return wrong("axis " + std::to_string(axis) + " of the input has " + std::to_string(out->channels) + " channels, which " +
                 std::to_string(config.groups) + " groups do not divide");
  }
  const int64_t own = out->channels / config.groups;
  if (config.groups > 1 && config.block && (out->channels % config.block || (own > 1 && own % config.block))) {
    return wrong("blocks of " + std::to_string(config.block) + " channels do not fit " + std::to_string(config.groups) + " groups of " +
                 std::to_string(own) + " channels; expected groups of one channel, or of whole blocks");
  }
  return "";
}

}  // namespace opau::ort
