// From prepared coefficients to launches. Included by one file for each dtype, so that they compile side by side.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "cuda/cuda_activation.hpp"
#include "cuda/kernels.cuh"

namespace opau::OPAU_TARGET {

constexpr int kThreads = 256;
constexpr int64_t kTile = 16 * 1024, kLongRun = 1024;
constexpr size_t kSmallParameters = 3 * 1024, kLargeParameters = 31 * 1024;  // of 4 KB, and of 32,764 bytes

// Blocks that fill the current device; asked once for each device.
inline cudaError_t blocks(int64_t wanted, unsigned* out) {
  static std::atomic<int> known[64];
  int device = 0, count = 0;
  if (cudaError_t error = cudaGetDevice(&device)) return error;
  std::atomic<int>* slot = device < 64 ? &known[device] : nullptr;
  count = slot ? slot->load() : 0;
  if (!count) {
    if (cudaError_t error = cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device)) return error;
    if (slot) slot->store(count);
  }
  *out = unsigned(std::clamp<int64_t>(wanted, 1, int64_t(count) * 8));
  return cudaSuccess;
}

template <Dtype dtype, Kind kind, Mode mode>
class Launcher final : public CudaActivation {
  using B = Body<dtype, kind, mode>;
  using T = typename B::T;
  using R = typename B::R;
  using E = typename B::E;

 public:
  Launcher(const Plan& plan, const Coefficients<T>& c) : degree_(plan.degree), constants_(make_constants<T>(plan)) {
    const int64_t rows = std::max(c.numerator_rows, c.denominator_rows);
    for (int64_t group = 0; group < rows; ++group) rows_.push_back(compact(make_row(plan, c, group)));
  }

  int load() const override {
    cudaFuncAttributes attributes;
    if (rows_.size() == 1) return cudaFuncGetAttributes(&attributes, shared_kernel<dtype, kind, mode>);
    return few() ? load_grouped<kFew>(&attributes) : load_grouped<kMany>(&attributes);
  }

  int run(const void* x, void* y, const Extent& extent, void* stream) const override {
    if (extent.count() == 0) return cudaSuccess;
    const auto* from = static_cast<const E*>(x);
    auto* to = static_cast<E*>(y);
    const auto on = static_cast<cudaStream_t>(stream);
    if (rows_.size() == 1) return shared(from, to, extent.count(), on);
    return few() ? grouped<kFew>(from, to, extent, on) : grouped<kMany>(from, to, extent, on);
  }

 private:
  // Groups in one launch; a launch takes longer with more parameters.
  static constexpr int kFew = int(kSmallParameters / sizeof(R)), kMany = int(kLargeParameters / sizeof(R));

  const int degree_;
  const Constants<T> constants_;
  std::vector<R> rows_;

  bool few() const { return rows_.size() <= size_t(kFew); }

  template <int capacity>
  static int load_grouped(cudaFuncAttributes* out) {
    if (cudaError_t error = cudaFuncGetAttributes(out, runs_kernel<dtype, kind, mode, capacity>)) return error;
    return cudaFuncGetAttributes(out, elements_kernel<dtype, kind, mode, capacity>);
  }

  static R compact(const FullRow<T>& full) {
    R row{};
    std::copy_n(full.c, std::size(row.c), row.c);
    std::copy_n(full.d, std::size(row.d), row.d);
    std::copy_n(full.p, std::size(row.p), row.p);
    row.top = full.top;
    return row;
  }

  int shared(const E* x, E* y, int64_t count, cudaStream_t stream) const {
    unsigned grid = 0;
    const int64_t packs = count / B::N + 1;
    if (cudaError_t error = blocks((packs + kThreads - 1) / kThreads, &grid)) return error;
    const Function<T, R> f{constants_, rows_[0], degree_};
    shared_kernel<dtype, kind, mode><<<grid, kThreads, 0, stream>>>(x, y, count, f);
    return cudaGetLastError();
  }

  // As many groups in one launch as its parameters hold.
  template <int capacity>
  int grouped(const E* x, E* y, const Extent& extent, cudaStream_t stream) const {
    const int64_t all = int64_t(rows_.size());
    Groups<T, R, capacity> g;
    g.constants = constants_;
    g.degree = degree_;
    g.all = all;
    g.length = extent.channels / all * extent.inner;
    for (g.first = 0; g.first < all; g.first += capacity) {
      g.count = int(std::min<int64_t>(capacity, all - g.first));
      std::copy_n(rows_.begin() + g.first, g.count, g.row);
      if (const int error = launch<capacity>(x, y, extent.outer, g, stream)) return error;
    }
    return cudaSuccess;
  }

  template <int capacity>
  int launch(const E* x, E* y, int64_t outer, const Groups<T, R, capacity>& g, cudaStream_t stream) const {
    unsigned grid = 0;
    const int64_t runs = outer * g.count;
    if (g.length >= kLongRun) {
      const int64_t tiles = (g.length + kTile - 1) / kTile;
      if (cudaError_t error = blocks(runs * tiles, &grid)) return error;
      runs_kernel<dtype, kind, mode, capacity><<<grid, kThreads, 0, stream>>>(x, y, runs, kTile, g);
    } else {
      if (cudaError_t error = blocks((runs * g.length + kThreads - 1) / kThreads, &grid)) return error;
      elements_kernel<dtype, kind, mode, capacity><<<grid, kThreads, 0, stream>>>(x, y, outer, g);
    }
    return cudaGetLastError();
  }
};

template <Dtype dtype, Kind kind, class T>
std::unique_ptr<const CudaActivation> with_mode(const Plan& plan, const Coefficients<T>& c) {
  if (plan.mode == Mode::terms) return std::make_unique<Launcher<dtype, kind, Mode::terms>>(plan, c);
  if (plan.mode == Mode::sum) return std::make_unique<Launcher<dtype, kind, Mode::sum>>(plan, c);
  return std::make_unique<Launcher<dtype, kind, Mode::none>>(plan, c);
}

template <Dtype dtype, class T>
std::unique_ptr<const CudaActivation> launcher(const Plan& plan, const Coefficients<T>& c) {
  if (plan.kind == Kind::power) return with_mode<dtype, Kind::power>(plan, c);
  if (plan.kind == Kind::hermite) return with_mode<dtype, Kind::hermite>(plan, c);
  if (plan.kind == Kind::symmetric) return with_mode<dtype, Kind::symmetric>(plan, c);
  return with_mode<dtype, Kind::general>(plan, c);
}

}  // namespace opau::OPAU_TARGET
