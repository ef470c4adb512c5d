// Launches of training. Included by one file for each dtype, so that they compile side by side.
#pragma once
#include "cuda/cuda_training.hpp"
#include "cuda/launch.cuh"
#include "cuda/training.cuh"

namespace opau {
// The inference kernels, compiled elsewhere.
std::unique_ptr<CudaActivation> cuda_float32(const Plan&, const void* rows, int64_t count);
std::unique_ptr<CudaActivation> cuda_float64(const Plan&, const void* rows, int64_t count);
std::unique_ptr<CudaActivation> cuda_float16(const Plan&, const void* rows, int64_t count);
std::unique_ptr<CudaActivation> cuda_bfloat16(const Plan&, const void* rows, int64_t count);
}  // namespace opau

namespace opau::OPAU_TARGET {

// Runs of one row that are shorter than this go by columns: neighbouring threads on neighbouring elements, each with its own row.
constexpr int64_t kShortRun = 32;
// Blocks that fill any device; with fewer, threads do less each. The same everywhere, so that sums have the same bits.
constexpr int64_t kBlocks = 1024;
// Elements of a column in a block, at least: partial sums are written for each.
constexpr int64_t kColumnElements = 128;
constexpr int64_t kNarrow = int64_t(1) << 31;  // positions below fit Divisor

inline int64_t quotient_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline Divisor small_divisor(int64_t value) {
  return {uint32_t(value), value == 1 ? ~uint32_t(0) : uint32_t((uint64_t(1) << 32) / uint64_t(value))};
}

// Divides the elements of columns among blocks of `threads`, `pack` neighbouring ones a thread at a time.
inline void cut(Deal* deal, int threads, int pack) {
  const int64_t step = threads / deal->across * int64_t(pack), tiles = quotient_up(deal->columns, deal->across);
  int64_t each = kThreadElements / pack;
  const auto blocks = [&] { return tiles * quotient_up(deal->elements, step * each); };
  while (each > 1 && blocks() < kBlocks && (deal->across == 1 || step * each > kColumnElements)) each /= 2;
  deal->chunk = step * each;
  deal->chunks = quotient_up(deal->elements, deal->chunk);
  // 31 bits; positions of the vector loop may reach beyond the end by less than a block's chunk.
  deal->run = deal->elements + deal->chunk < kNarrow && deal->width < kNarrow ? small_divisor(deal->width) : Divisor{0, 0};
}

template <Dtype dtype, Kind kind, Mode mode>
class Trainer final : public CudaTraining {
  using B = Body<dtype, kind, mode>;
  using T = typename B::T;
  using R = typename B::R;
  using E = typename B::E;
  using FromRows = std::unique_ptr<CudaActivation> (*)(const Plan&, const void*, int64_t);
  // The closed forms with all centres 0 are powers.
  static constexpr Kind kBackward = kind == Kind::power ? Kind::symmetric : kind;

 public:
  explicit Trainer(const Plan& plan) : plan_(plan), k_(make_constants<T>(plan)), definition_(make_definition(plan)) {}

  size_t workspace(const Extent& extent, int64_t rows, bool sums) const override {
    if (!sums) return rows_bytes(rows);
    const size_t one = partial_bytes(deal(extent, rows, true)), other = partial_bytes(deal(extent, rows, false));
    return rows_bytes(rows) + std::max(one, other);
  }

  int forward(const CudaCoefficients& c, const void* x, void* y, const Extent& extent, void* workspace, void* stream) const override {
    if (extent.count() == 0) return cudaSuccess;
    auto* rows = static_cast<R*>(workspace);
    if (const int error = prepare(c, rows, static_cast<cudaStream_t>(stream))) return error;
    constexpr auto activation = dtype == Dtype::float32   ? static_cast<FromRows>(cuda_float32)
                                : dtype == Dtype::float64 ? static_cast<FromRows>(cuda_float64)
                                : dtype == Dtype::float16 ? static_cast<FromRows>(cuda_float16)
                                                          : static_cast<FromRows>(cuda_bfloat16);
    return activation(plan_, rows, c.rows())->run(x, y, extent, stream);
  }

  int backward(const CudaCoefficients& c, const void* x, const void* g, const CudaGradients& to, const Extent& extent, void* workspace,
               void* stream) const override {
    const auto on = static_cast<cudaStream_t>(stream);
    auto* rows = static_cast<FullGradientRow<T>*>(workspace);
    if (const int error = prepare(c, rows, on)) return error;
    const bool aligned = [&] {
      return (reinterpret_cast<uintptr_t>(x) | reinterpret_cast<uintptr_t>(g) | reinterpret_cast<uintptr_t>(to.dx)) % 16 == 0;
    }();
    const Deal d = deal(extent, c.rows(), aligned);
    double* partial = to.numerator ? reinterpret_cast<double*>(static_cast<char*>(workspace) + rows_bytes(c.rows())) : nullptr;
    if (extent.count()) {
      if (const int error = packs(d, aligned) ? pass<true>(x, g, to.dx, d, rows, partial, on) : pass<false>(x, g, to.dx, d, rows, partial, on)) {
        return error;
      }
    }
    return partial ? total(c, d, extent, partial, to, on) : cudaSuccess;
  }

 private:
  const Plan plan_;
  const Constants<T> k_;
  const Definition definition_;

  int sums() const { return 2 * (plan_.degree + 1); }
  static size_t rows_bytes(int64_t rows) { return (size_t(rows) * sizeof(FullGradientRow<T>) + 15) / 16 * 16; }
  size_t partial_bytes(const Deal& d) const { return size_t(d.columns * d.chunks) * size_t(sums()) * sizeof(double); }

  // Whole runs of packs, each at a 16-byte boundary.
  static bool packs(const Deal& d, bool aligned) {
    return aligned && d.across == 1 && (d.width == d.elements && d.columns == 1 ? true : d.width % B::N == 0);
  }

  Deal deal(const Extent& extent, int64_t rows, bool aligned) const {
    const int64_t count = extent.count(), length = rows == 1 ? count : extent.channels / rows * extent.inner;
    Deal d{rows, length, rows * length, rows == 1 ? count : extent.outer * length, count, 1, rows, 1, 1, 1, {0, 0}};
    if (rows > 1 && length > 0 && length < kShortRun) {
      const int64_t period = rows * length, side_by_side = quotient_up(32, period) * period;
      d = {side_by_side, 1, side_by_side, quotient_up(count, side_by_side), count, length, rows, 1, 1, 32, {0, 0}};
    }
    if (count == 0) {
      d.elements = 0, d.chunks = 0;
      return d;
    }
    const bool packed = packs(d, aligned);
    constexpr int threads = BackwardBody<dtype, kBackward, mode, false>::kThreads;
    cut(&d, threads, packed ? B::N : 1);
    return d;
  }

  template <class Row>
  int prepare(const CudaCoefficients& c, Row* rows, cudaStream_t stream) const {
    const int64_t groups = c.rows();
    const unsigned grid = unsigned(std::min(quotient_up(groups, 32), kLargestGrid));
    return enqueue(prepare_kernel<T, Row>, grid, 32, 0, stream, given(c), definition_, k_, groups, rows);
  }

  static Given<T> given(const CudaCoefficients& c) {
    return {static_cast<const T*>(c.numerator), static_cast<const T*>(c.denominator), c.numerator_rows > 1, c.denominator_rows > 1};
  }

  template <bool packed>
  int pass(const void* x, const void* g, void* dx, const Deal& d, const FullGradientRow<T>* rows, double* partial, cudaStream_t stream) const {
    constexpr int threads = BackwardBody<dtype, kBackward, mode, packed>::kThreads;
    const int64_t blocks = quotient_up(d.columns, d.across) * d.chunks;
    if (blocks > kLargestGrid) return cudaErrorInvalidConfiguration;
    const size_t shared = size_t(threads) * size_t(sums()) * sizeof(double);
    return enqueue(backward_kernel<dtype, kBackward, mode, packed>, unsigned(blocks), threads, shared, stream, static_cast<const E*>(x),
                   static_cast<const E*>(g), static_cast<E*>(dx), k_, d, rows, plan_.degree, partial);
  }

  int total(const CudaCoefficients& c, const Deal& d, const Extent& extent, const double* partial, const CudaGradients& to,
            cudaStream_t stream) const {
    const int64_t groups = c.rows(), period = groups * d.repeat;
    const Shares shares{d.repeat, period, extent.count() ? d.columns / period : 0, d.chunks};
    const int64_t blocks = (c.numerator_rows > 1 ? groups : 1) * definition_.c_size + (c.denominator_rows > 1 ? groups : 1) * definition_.d_size;
    if (blocks > kLargestGrid) return cudaErrorInvalidConfiguration;
    return enqueue(total_kernel<T>, unsigned(blocks), kTotalThreads, 0, stream, partial, given(c), definition_, plan_.degree, groups, shares,
                   static_cast<T*>(to.numerator), static_cast<T*>(to.denominator));
  }
};

template <Dtype dtype, Kind kind, Mode... modes>
std::unique_ptr<CudaTraining> trainer_with_mode(const Plan& plan, tables::ModeList<modes...>) {
  std::unique_ptr<CudaTraining> made;
  ((plan.mode == modes ? void(made = std::make_unique<Trainer<dtype, kind, modes>>(plan)) : void()), ...);
  return made;
}

template <Dtype dtype>
std::unique_ptr<CudaTraining> trainer(const Plan& plan) {
  if (plan.kind == Kind::power) return trainer_with_mode<dtype, Kind::power>(plan, tables::Modes{});
  if (plan.kind == Kind::hermite) return trainer_with_mode<dtype, Kind::hermite>(plan, tables::Modes{});
  if (plan.kind == Kind::symmetric) return trainer_with_mode<dtype, Kind::symmetric>(plan, tables::Modes{});
  return trainer_with_mode<dtype, Kind::general>(plan, tables::Modes{});
}

}  // namespace opau::OPAU_TARGET
