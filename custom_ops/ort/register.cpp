// onnxruntime's way in: RegisterCustomOps adds one op for each (provider, dtype) under the function's own name and domain.
#include <atomic>

#include "ort/kernel.hpp"

#ifdef _WIN32
#define OPAU_ENTRY extern "C" __declspec(dllexport)
#else
#define OPAU_ENTRY extern "C" __attribute__((visibility("default")))
#endif

namespace opau::ort {
namespace {

struct Op : OrtCustomOp {
  OpKind kind;
  Dtype dtype;
  const char* provider;  // null: CPU
  MakeKernel make;
};

const Op& self(const OrtCustomOp* op) { return *static_cast<const Op*>(op); }

// onnxruntime hands kernels back as void*.
struct Handle {
  const OrtApi& api;
  std::unique_ptr<Kernel> kernel;
};

OrtStatusPtr ORT_API_CALL create(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** out) {
  return guarded(*api, [&]() -> OrtStatus* {
    *out = nullptr;
    std::unique_ptr<Kernel> kernel;
    OrtStatus* status = self(op).make(*api, info, self(op).kind, self(op).dtype, &kernel);
    if (!status) *out = new Handle{*api, std::move(kernel)};
    return status;
  });
}

OrtStatusPtr ORT_API_CALL compute(void* kernel, OrtKernelContext* context) {
  const Handle& handle = *static_cast<const Handle*>(kernel);
  return guarded(handle.api, [&] { return handle.kernel->compute(context); });
}

void ORT_API_CALL destroy(void* kernel) { delete static_cast<Handle*>(kernel); }


// Shape inference is given no interface of its own. Every onnxruntime in a process hands out the same table.
std::atomic<const OrtApi*> api_{nullptr};

// Y has X's shape, symbolic dimensions too.
OrtStatusPtr ORT_API_CALL infer_shape(const OrtCustomOp*, OrtShapeInferContext* context) {
  const OrtApi& api = *api_.load();
  OrtTensorTypeAndShapeInfo* x = nullptr;
  if (OrtStatus* status = api.ShapeInferContext_GetInputTypeShape(context, 0, &x)) return status;
  return api.ShapeInferContext_SetOutputTypeShape(context, 0, x);
}

ONNXTensorElementDataType element(Dtype dtype) { return ONNXTensorElementDataType(int(dtype)); }

ONNXTensorElementDataType ORT_API_CALL input_type(const OrtCustomOp* op, size_t index) {
  const bool wide = self(op).dtype == Dtype::float64;
  return index == 0 ? element(self(op).dtype) : wide ? ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

// Coefficients stay in host memory on every provider: they are small, and a CUDA launch takes them by value.
OrtMemType ORT_API_CALL memory(const OrtCustomOp* op, size_t index) {
  return index && self(op).provider ? OrtMemTypeCPUInput : OrtMemTypeDefault;
}

size_t ORT_API_CALL may_inplace(int** input, int** output) {
  *input = new (std::nothrow) int[1]{0};
  *output = new (std::nothrow) int[1]{0};
  return *input && *output ? 1 : 0;
}

void ORT_API_CALL release_may_inplace(int* input, int* output) {
  delete[] input;
  delete[] output;
}

Op make_op(OpKind kind, const char* provider, MakeKernel make, Dtype dtype) {
  Op op{};
  op.version = ORT_API_VERSION;
  op.kind = kind;
  op.dtype = dtype;
  op.provider = provider;
  op.make = make;
  op.CreateKernelV2 = create;
  op.KernelComputeV2 = compute;
  op.KernelDestroy = destroy;
  op.InferOutputShapeFn = infer_shape;
  op.GetName = [](const OrtCustomOp* o) { return op_type(self(o).kind); };
  op.GetExecutionProviderType = [](const OrtCustomOp* o) { return self(o).provider; };
  op.GetInputType = input_type;
  op.GetInputTypeCount = [](const OrtCustomOp* o) -> size_t { return self(o).kind == OpKind::fixed ? 1 : 3; };
  op.GetOutputType = [](const OrtCustomOp* o, size_t) { return element(self(o).dtype); };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  op.GetInputMemoryType = memory;
  op.GetVariadicInputMinArity = [](const OrtCustomOp*) { return 0; };
  op.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 0; };
  op.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op.GetStartVersion = [](const OrtCustomOp*) { return tables::kOpsetVersion; };
  op.GetEndVersion = [](const OrtCustomOp*) { return tables::kOpsetVersion; };
  op.GetMayInplace = may_inplace;
  op.ReleaseMayInplace = release_may_inplace;
  return op;
}

constexpr Dtype kDtypes[] = {Dtype::float32, Dtype::float16, Dtype::bfloat16, Dtype::float64};

// The ops and their domain live as long as the process: sessions that use them may outlast the options they were registered on.
struct Domain {
  std::vector<Op> ops;
  OrtCustomOpDomain* domain = nullptr;
  Error error;

  explicit Domain(const OrtApi& api) {
    for (OpKind kind : {OpKind::learned, OpKind::fixed}) {
      for (Dtype dtype : kDtypes) {
        ops.push_back(make_op(kind, nullptr, make_cpu_kernel, dtype));
#if OPAU_WITH_CUDA
        ops.push_back(make_op(kind, "CUDAExecutionProvider", make_cuda_kernel, dtype));
#endif
      }
    }
    error = take(api, api.CreateCustomOpDomain(tables::kDomain, &domain));
    for (size_t i = 0; i < ops.size() && error.empty(); ++i) error = take(api, api.CustomOpDomain_Add(domain, &ops[i]));
  }
};

OrtStatus* add_to(OrtSessionOptions* options, const OrtApi& api) {
  api_ = &api;
  static const Domain domain(api);  // made once; C++ makes other threads wait
  if (!domain.error.empty()) return status(api, domain.error, ORT_FAIL);
  return api.AddCustomOpDomain(options, domain.domain);
}

}  // namespace
}  // namespace opau::ort

OPAU_ENTRY OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (!api) {  // the oldest interface is enough to say so
    api = base->GetApi(1);
    const std::string message = "opau_onnx's library needs onnxruntime 1." + std::to_string(ORT_API_VERSION) + " or newer; this is " +
                                base->GetVersionString();
    return api ? api->CreateStatus(ORT_NOT_IMPLEMENTED, message.c_str()) : nullptr;
  }
  return opau::ort::guarded(*api, [&] { return opau::ort::add_to(options, *api); });
}
