// From prepared coefficients to launches. Included by one file for each dtype, so that they compile side by side.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <tuple>
#include <vector>

#include "cuda/cuda_activation.hpp"
#include "cuda/kernels.cuh"

namespace opau::OPAU_TARGET {

#ifndef OPAU_SHIM  // which runs kernels on the host, in tests
// Whether the library has code for the current device; loads it.
template <class... P>
cudaError_t loaded(void (*kernel)(P...)) {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, kernel);
}

// kernel<<<grid, block, shared, stream>>>(arguments...), with its error as the result.
template <class... P, class... A>
cudaError_t enqueue(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream, const A&... arguments) {
  std::tuple<P...> values(arguments...);
  const auto launch = [&](auto&... value) {
    void* pointers[] = {&value...};
    return cudaLaunchKernel(kernel, grid, block, pointers, shared, stream);
  };
  return std::apply(launch, values);
}
#endif

constexpr int64_t kLargestGrid = (int64_t(1) << 31) - 1, kLargestGridY = 65535;  // z as y
// One row: a pack or two for each thread, so that all loads are under way at once. On an H100 a grid that only fills the device
// and strides took 1.17 times as long at 512 MB; the stride is for tensors beyond the largest grid.
constexpr int kThreads = 128;
// Several rows.
constexpr int kGroupThreads = 256;
constexpr size_t kParameterBytes = 3 * 1024;   // rows by value, in parameters of 4 KB at most: larger ones take 10 us longer
constexpr size_t kSharedBytes = 48 * 1024;     // of a block, on every device
constexpr int64_t kPieceBytes = 16 * 1024;     // of a slice's run or runs, at least
#ifdef OPAU_SHIM
inline const int64_t& kPieceLimit = shim::piece_limit;
#else
constexpr int64_t kPieceLimit = int64_t(1) << 30;  // elements: positions in a piece are 32-bit
#endif
constexpr int64_t kStagingShare = 8;           // a block moves at least so many times the bytes of the rows that it copies

// Multiprocessors of the current device; asked once for each device.
inline cudaError_t multiprocessors(int64_t* out) {
  static std::atomic<int> known[64];
  int device = 0, count = 0;
  if (cudaError_t error = cudaGetDevice(&device)) return error;
  std::atomic<int>* slot = device < 64 ? &known[device] : nullptr;
  count = slot ? slot->load() : 0;
  if (!count) {
    if (cudaError_t error = cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device)) return error;
    if (slot) slot->store(count);
  }
  *out = count;
  return cudaSuccess;
}

template <Dtype dtype, Kind kind, Mode mode>
class Launcher final : public CudaActivation {
  using B = Body<dtype, kind, mode>;
  using T = typename B::T;
  using R = typename B::R;
  using E = typename B::E;

 public:
  Launcher(const Plan& plan, const Coefficients<T>& c)
      : degree_(plan.degree), exponent_(common_exponent(plan, c)), constants_(make_constants<T>(plan, exponent_)),
        affine_(c.affine_rows > 0), one_(c.rows() == 1 && !affine_) {
    const int64_t rows = c.rows();
    for (int64_t group = 0; group < rows; ++group) rows_.push_back(compact(make_row(plan, c, group, exponent_)));
    count_ = rows;
  }

  // Rows that are on the device already: R, as training's kernels make them.
  Launcher(const Plan& plan, const void* rows, int64_t count)
      : degree_(plan.degree), exponent_(0), constants_(make_constants<T>(plan)), affine_(false), one_(false), count_(count),
        device_(static_cast<const R*>(rows)) {}

  int load() const override {
    if (one_) return loaded(shared_kernel<dtype, kind, mode>);
    return few() ? loaded(few_groups_kernel<dtype, kind, mode, kFew>) : loaded(many_groups_kernel<dtype, kind, mode>);
  }

  size_t device_bytes() const override { return few() ? 0 : rows_.size() * sizeof(R); }

  int upload(void* memory) override {
    device_ = static_cast<const R*>(memory);
    // From pageable memory cudaMemcpy may return before the copy ends, and streams that do not block would not wait for it.
    if (cudaError_t error = cudaMemcpy(memory, rows_.data(), device_bytes(), cudaMemcpyHostToDevice)) return error;
    return cudaStreamSynchronize(nullptr);
  }

  int run(const void* x, void* y, const Extent& extent, void* stream) const override {
    if (extent.count() == 0) return cudaSuccess;
    const auto* from = static_cast<const E*>(x);
    auto* to = static_cast<E*>(y);
    const auto on = static_cast<cudaStream_t>(stream);
    if (one_) return shared(from, to, extent.count(), on);
    if (length(extent) > kPieceLimit) return long_runs(from, to, extent, on);
    return device_ ? from_device(from, to, extent, device_, all(), on) : few_groups(from, to, extent, on);
  }

 private:
  static constexpr int64_t kFew = int64_t(kParameterBytes / sizeof(R));
  static constexpr int64_t kStaged = int64_t((kSharedBytes - sizeof(T)) * B::N / (B::N * sizeof(R) + sizeof(T))) / 32 * 32;
  static_assert(B::Shared::bytes(kStaged) <= kSharedBytes, "the rows of a slice fit");

  const int degree_, exponent_;
  const Constants<T> constants_;
  const bool affine_, one_;  // one_: a row for all, and no affine, which its kernel does not know
  std::vector<R> rows_;  // empty where they were made on the device
  int64_t count_ = 0;
  const R* device_ = nullptr;

  int64_t all() const { return count_; }
  int64_t length(const Extent& extent) const { return extent.channels / all() * extent.inner; }
  bool few() const { return all() <= kFew; }

  static R compact(const FullRow<T>& full) {
    R row{};
    std::copy_n(full.c, std::size(row.c), row.c);
    std::copy_n(full.d, std::size(row.d), row.d);
    std::copy_n(full.p, std::size(row.p), row.p);
    row.top = full.top;
    row.scale = full.scale;
    row.shift = full.shift;
    return row;
  }

  static int64_t ceiling(int64_t a, int64_t b) { return (a + b - 1) / b; }

  int shared(const E* x, E* y, int64_t count, cudaStream_t stream) const {
    return one_row(x, y, count, rows_[0], stream);
  }

  int one_row(const E* x, E* y, int64_t count, const R& row, cudaStream_t stream) const {
    const unsigned grid = unsigned(std::min(ceiling(count / B::N + 1, 2 * kThreads), kLargestGrid));
    const Function<T, R> f{constants_, row, degree_};
    return enqueue(shared_kernel<dtype, kind, mode>, grid, kThreads, 0, stream, x, y, count, f);
  }

  static Divisor divisor(int64_t value) {
    return {uint32_t(value), value == 1 ? ~uint32_t(0) : uint32_t((uint64_t(1) << 32) / uint64_t(value))};
  }

  int long_runs(const E* x, E* y, const Extent& extent, cudaStream_t stream) const {
    const int64_t run = length(extent);
    for (int64_t i = 0; i < extent.outer * all(); ++i) {
      const int64_t at = i * run, row = i % all();
      if (const int error = rows_.empty() ? there(x + at, y + at, run, row, stream) : one_run(x + at, y + at, run, rows_[size_t(row)], stream)) {
        return error;
      }
    }
    return cudaSuccess;
  }

  // A run by one row of those on the device.
  int there(const E* x, E* y, int64_t run, int64_t row, cudaStream_t stream) const {
    for (int64_t at = 0; at < run; at += kPieceLimit) {
      const Extent part{1, 1, std::min(run - at, kPieceLimit)};
      if (const int error = from_device(x + at, y + at, part, device_ + row, 1, stream)) return error;
    }
    return cudaSuccess;
  }

  int one_run(const E* x, E* y, int64_t run, const R& row, cudaStream_t stream) const {
    if (!affine_) return one_row(x, y, run, row, stream);
    for (int64_t at = 0; at < run; at += kPieceLimit) {
      const Extent part{1, 1, std::min(run - at, kPieceLimit)};
      if (const int error = by_value(x + at, y + at, part, &row, 1, stream)) return error;
    }
    return cudaSuccess;
  }

  // `groups` of the tensor's `total` groups, in slices of `each`.
  Layout<T> layout(const Extent& extent, int64_t total, int64_t groups, int64_t each) const {
    const int64_t run = extent.channels / total * extent.inner, period = each * run;
    Layout<T> l{constants_, degree_, int(groups), int(each), divisor(run), divisor(period), extent.outer, period, total * run, period};
    if (each == total) {  // one slice has all groups, so pieces touch: as many periods in each as fit
      const int64_t periods = std::clamp<int64_t>(kPieceLimit / period, 1, extent.outer);
      l.pieces = ceiling(extent.outer, periods);
      l.span = l.stride = periods * period;
      l.last = extent.count() - (l.pieces - 1) * l.span;
    }
    return l;
  }

  int few_groups(const E* x, E* y, const Extent& extent, cudaStream_t stream) const {
    return by_value(x, y, extent, rows_.data(), all(), stream);
  }

  // `total` rows by value, as many in a launch as its parameters hold: for few groups one launch.
  int by_value(const E* x, E* y, const Extent& extent, const R* from, int64_t total, cudaStream_t stream) const {
    const int64_t run = extent.channels / total * extent.inner;
    int64_t processors = 0;
    if (cudaError_t error = multiprocessors(&processors)) return error;
    Rows<R, kFew> rows;
    for (int64_t first = 0; first < total; first += kFew) {
      const int64_t count = std::min<int64_t>(kFew, total - first), at = first * run;
      const Layout<T> l = layout(extent, total, count, std::min(count, kPieceLimit / run));
      std::copy_n(from + first, count, rows.row);
      dim3 grid, block;
      shape(l, processors, &grid, &block);
      if (cudaError_t error = enqueue(few_groups_kernel<dtype, kind, mode, kFew>, grid, block, 0, stream, x + at, y + at, l, rows)) {
        return error;
      }
    }
    return cudaSuccess;
  }

  // Rows from device memory. Slices of short runs have more groups, since pieces should not be small; in a small tensor fewer, since
  // blocks would wait for their rows longer than they compute.
  int from_device(const E* x, E* y, const Extent& extent, const R* rows, int64_t total, cudaStream_t stream) const {
    int64_t processors = 0;
    if (cudaError_t error = multiprocessors(&processors)) return error;
    const int64_t run = extent.channels / total * extent.inner, busy = extent.count() / B::N / kGroupThreads;
    int64_t each = std::min({ceiling(kPieceBytes / int64_t(sizeof(E)), run), kStaged, total});
    each = std::min(each, std::max<int64_t>(32, ceiling(total * busy, processors)));
    if (each > 32) each = std::min(ceiling(ceiling(total, ceiling(total, each)), 32) * 32, total);  // even, and their borders aligned
    each = std::max(each, ceiling(total, kLargestGridY));
    const Layout<T> l = layout(extent, total, total, each);
    dim3 grid, block;
    shape(l, processors, &grid, &block);
    return enqueue(many_groups_kernel<dtype, kind, mode>, grid, block, B::Shared::bytes(int(each)), stream, x, y, l, rows);
  }

  // A block has as many packs to do as make up for copying its rows, unless the device would not be filled then.
  static void shape(const Layout<T>& l, int64_t processors, dim3* grid, dim3* block) {
    const int64_t packs = l.span / B::N + 1, slices = ceiling(l.groups, l.each);
    int64_t along = 32;  // threads along a piece; the others take the next pieces
    while (along < kGroupThreads && along < packs) along *= 2;
    const int64_t across = kGroupThreads / along;
    int64_t each = std::max<int64_t>(4, kStagingShare * l.each * int64_t(sizeof(R)) / (2 * 16 * kGroupThreads));  // packs per thread
    int64_t x = 1, y = 1;
    for (;; each /= 2) {
      x = ceiling(packs, along * each);
      y = ceiling(l.pieces, across * std::max<int64_t>(1, each / ceiling(packs, along * x)));
      if (each == 1 || x * y * slices >= 8 * processors) break;
    }
    *grid = dim3(unsigned(std::min(x, kLargestGrid)), unsigned(std::min(y, kLargestGridY)), unsigned(slices));
    *block = dim3(unsigned(along), unsigned(across));
  }
};

template <Dtype dtype, Kind kind, Mode... modes, class... From>
std::unique_ptr<CudaActivation> with_mode(const Plan& plan, tables::ModeList<modes...>, const From&... from) {
  std::unique_ptr<CudaActivation> made;
  ((plan.mode == modes ? void(made = std::make_unique<Launcher<dtype, kind, modes>>(plan, from...)) : void()), ...);
  return made;
}

// `from`: coefficients; or rows on the device and their number.
template <Dtype dtype, class... From>
std::unique_ptr<CudaActivation> launcher(const Plan& plan, const From&... from) {
  if (plan.kind == Kind::power) return with_mode<dtype, Kind::power>(plan, tables::Modes{}, from...);
  if (plan.kind == Kind::hermite) return with_mode<dtype, Kind::hermite>(plan, tables::Modes{}, from...);
  if (plan.kind == Kind::symmetric) return with_mode<dtype, Kind::symmetric>(plan, tables::Modes{}, from...);
  return with_mode<dtype, Kind::general>(plan, tables::Modes{}, from...);
}

}  // namespace opau::OPAU_TARGET
