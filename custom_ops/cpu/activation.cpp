#include "opau/activation.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>

namespace opau {

extern const InstructionSet kScalar;
#if defined(__x86_64__) || defined(_M_X64)
extern const InstructionSet kScalarFma, kAvx2, kAvx512;
#elif defined(__aarch64__)
extern const InstructionSet kNeon;
#endif

const std::vector<const InstructionSet*>& instruction_sets() {
  static const std::vector<const InstructionSet*> all = {
      &kScalar,
#if defined(__x86_64__) || defined(_M_X64)
      &kScalarFma,
      &kAvx2,
      &kAvx512,
#elif defined(__aarch64__)
      &kNeon,
#endif
  };
  return all;
}

const InstructionSet& best_instruction_set() {
  static const InstructionSet* const best = [] {
    const auto& all = instruction_sets();
    return *std::find_if(all.rbegin(), all.rend(), [](const InstructionSet* s) { return s->available(); });
  }();
  return *best;
}

namespace {

// Padding of the lane tables: the widest vector.
constexpr int64_t kLanePad = 16;
// Elements with scale and shift of their own that are done in one call; the same where channels lie in blocks.
constexpr int64_t kTile = 1024, kBlockTile = 256;
static_assert(kBlockTile % kLargestBlock == 0, "a tile holds whole blocks");
// Tables for short runs: of so many lanes at most, for so many lengths.
constexpr int64_t kMostLanes = 16 * 1024;
constexpr size_t kLaneTables = 4;
// Runs longer than this are worth a call each.
constexpr int64_t kLongRun = 256;

const KernelSet<float>& kernels(const InstructionSet& set, Dtype dtype, float) {
  return dtype == Dtype::float16 ? set.float16 : dtype == Dtype::bfloat16 ? set.bfloat16 : set.float32;
}
const KernelSet<double>& kernels(const InstructionSet& set, Dtype, double) { return set.float64; }

template <class T>
class CpuActivation final : public Activation {
 public:
  // kept: whether it will run many times.
  CpuActivation(const Plan& plan, Dtype dtype, const Coefficients<T>& c, const InstructionSet& set, bool kept)
      : Activation(plan, dtype), kept_(kept), exponent_(common_exponent(plan, c)), constants_(make_constants<T>(plan, exponent_)) {
    const KernelSet<T>& table = kernels(set, dtype, T());
    kernels_ = table.of[int(plan.kind)][int(plan.mode)][plan.size];
    row_kernel_ = c.affine_rows ? kernels_.affine_row : kernels_.row;
    width_ = table.width;
    const int64_t rows = c.rows();
    for (int64_t group = 0; group < rows; ++group) rows_.push_back(make_row(plan, c, group, exponent_));
    if (c.affine_rows > 1 && c.numerator_rows == 1 && c.denominator_rows == 1) {
      make_tile(plan.config.block ? kBlockTile / plan.config.block * plan.config.block : 0);
    }
  }

  void run(const void* x, void* y, const Extent& extent, int64_t begin, int64_t end, bool stream) const override {
    if (begin >= end) return;  // also: no run has elements
    if (rows_.size() == 1) return row(0, x, y, begin, end, stream);
    if (plan().config.block) return blocks(x, y, extent, begin, end, stream);
    const int64_t length = extent.inner * (extent.channels / int64_t(rows_.size()));
    if (length == 1 && !tile_.empty()) {
      tiles(x, y, extent.channels, begin, end);
    } else if (const LaneTable* table = length <= longest_in_lanes() ? lane_table(length) : nullptr) {
      lanes(*table, x, y, begin, end);
    } else {
      runs(x, y, length, begin, end, stream);
    }
  }

 private:
  const bool kept_;
  const int exponent_;
  const Constants<T> constants_;
  std::vector<FullRow<T>> rows_;  // one, or one for each group
  std::vector<T> tile_;  // as many scales as fill kTile, as many shifts
  typename KernelSet<T>::Functions kernels_;
  RowKernel<T> row_kernel_;
  int64_t width_, tile_stride_ = 0;

  // Runs of `length` elements, whole periods of them, so that few and short ones do not make short calls.
  struct LaneTable {
    int64_t length, lanes, stride;
    std::vector<T> memory;
    T* values;  // in it, at the start of a cache line, as all rows are, so that few vectors lie across two
  };
  // Made when a length is first met, kept while the activation lives: shapes are few.
  mutable std::array<std::atomic<const LaneTable*>, kLaneTables> tables_{};
  mutable std::vector<std::unique_ptr<const LaneTable>> owned_;
  mutable std::mutex making_;

  // Up to one and a half vectors the second one of each run is much of the time; a table that serves once costs more.
  int64_t longest_in_lanes() const { return kept_ && width_ > 1 ? 3 * width_ / 2 : width_; }

  // Null where there are too many lanes, or lengths.
  const LaneTable* lane_table(int64_t length) const {
    if (length > 1 && int64_t(rows_.size()) * length > kMostLanes) return nullptr;
    const auto known = [&](size_t limit) -> const LaneTable* {
      for (size_t i = 0; i < limit; ++i) {
        const LaneTable* table = tables_[i].load(std::memory_order_acquire);
        if (table && table->length == length) return table;
      }
      return nullptr;
    };
    if (const LaneTable* table = known(tables_.size())) return table;
    const std::lock_guard<std::mutex> lock(making_);
    if (const LaneTable* table = known(owned_.size())) return table;
    if (owned_.size() == tables_.size()) return nullptr;
    owned_.push_back(make_lanes(length));
    tables_[owned_.size() - 1].store(owned_.back().get(), std::memory_order_release);
    return owned_.back().get();
  }

  std::unique_ptr<const LaneTable> make_lanes(int64_t length) const {
    const int64_t period = int64_t(rows_.size()) * length, lanes = period * ((kTile / 4 - 1) / period + 1);
    const int64_t line = 64 / int64_t(sizeof(T)), stride = (lanes + kLanePad + line - 1) / line * line;
    auto table = std::make_unique<LaneTable>(LaneTable{length, lanes, stride, std::vector<T>(size_t(kLaneValues * stride + line), T(0)), nullptr});
    table->values = table->memory.data() + (64 - reinterpret_cast<uintptr_t>(table->memory.data()) % 64) % 64 / sizeof(T);
    for (int64_t n = 0; n < lanes; ++n) {
      const FullRow<T>& row = rows_[size_t(n / length) % rows_.size()];
      const auto put = [&](int at, T value) { table->values[at * stride + n] = value; };
      for (int i = 0; i < kRowSize; ++i) put(i, row.c[i]);
      for (int i = 0; i < kRowSize; ++i) put(kRowSize + i, row.d[i]);
      for (int i = 0; i <= kUnrolledK; ++i) put(2 * kRowSize + i, row.p[i]);
      put(kLaneScale, row.scale);
      put(kLaneScale + 1, row.shift);
    }
    return table;
  }

  Lanes<T> lanes_of(const LaneTable& table) const {
    return {table.values, table.stride, rows_.data(), int64_t(rows_.size()), table.length};
  }

  // Whole periods of the channels, so that few channels do not make short calls.
  int64_t tile_size() const { return int64_t(rows_.size()) * ((kTile - 1) / int64_t(rows_.size()) + 1); }

  // repeated: how many entries each block of channels gets, so that its channels come round several times; 0 without blocks.
  void make_tile(int64_t repeated) {
    const int64_t block = plan().config.block, blocks = repeated ? int64_t(rows_.size()) / block : 0;
    const int64_t size = repeated ? blocks * repeated : tile_size();
    tile_stride_ = size + kLanePad;
    tile_.assign(size_t(2 * tile_stride_), T(0));
    for (int64_t i = 0; i < size; ++i) {
      const int64_t channel = repeated ? i / repeated * block + i % repeated % block : i % int64_t(rows_.size());
      tile_[size_t(i)] = rows_[size_t(channel)].scale;
      tile_[size_t(tile_stride_ + i)] = rows_[size_t(channel)].shift;
    }
  }

  const void* at(const void* p, int64_t i) const { return static_cast<const char*>(p) + i * element_size(dtype()); }
  void* at(void* p, int64_t i) const { return static_cast<char*>(p) + i * element_size(dtype()); }

  void row(size_t group, const void* x, void* y, int64_t begin, int64_t end, bool stream) const {
    row_kernel_(constants_, rows_[group], plan().degree, at(x, begin), at(y, begin), end - begin, stream);
  }

  // Runs of neighbours that share a row.
  void runs(const void* x, void* y, int64_t length, int64_t begin, int64_t end, bool stream) const {
    const int64_t groups = int64_t(rows_.size());
    for (int64_t i = begin; i < end;) {
      const int64_t run = i / length, whole = i % length == 0 ? (end - i) / length : 0;
      if (whole > 0 && length >= width_ && length <= kLongRun) {
        kernels_.runs(constants_, rows_.data(), groups, run % groups, plan().degree, at(x, i), at(y, i), length, whole);
        i += whole * length;
        continue;
      }
      const int64_t stop = std::min(end, (run + 1) * length);
      row(size_t(run % groups), x, y, i, stop, stream && length >= 1024);
      i = stop;
    }
  }

  // Channels side by side, which differ in scale and shift only.
  void tiles(const void* x, void* y, int64_t channels, int64_t begin, int64_t end) const {
    const int64_t size = tile_size();
    for (int64_t i = begin; i < end;) {
      const int64_t channel = i % channels, count = std::min(end - i, size - channel);
      const T* scale = tile_.data() + channel;
      kernels_.tile(constants_, rows_[0], plan().degree, scale, scale + tile_stride_, at(x, i), at(y, i), count);
      i += count;
    }
  }

  // Blocks of channels, one after the other; in each, pixel by pixel, its channels side by side.
  void blocks(const void* x, void* y, const Extent& extent, int64_t begin, int64_t end, bool stream) const {
    const int64_t block = plan().config.block, own = extent.channels / int64_t(rows_.size());
    if (own % block == 0) return runs(x, y, extent.inner * own, begin, end, stream);  // all channels of a block share a row
    const int64_t chunk = extent.inner * block, repeated = kBlockTile / block * block;
    const LaneTable* made = tile_.empty() ? lane_table(1) : nullptr;
    const Lanes<T> table = made ? lanes_of(*made) : Lanes<T>{};
    for (int64_t i = begin; i < end;) {
      const int64_t index = i / chunk % (extent.channels / block), offset = i % chunk, lane = offset % block;
      const bool vectors = block == width_ && lane == 0;  // each vector holds all channels of the block, in their order
      const int64_t left = std::min(end - i, chunk - offset), short_of = (tile_.empty() ? block : repeated) - lane;
      const int64_t count = vectors && !tile_.empty() ? left : std::min(left, short_of);
      if (tile_.empty()) {
        kernels_.lane(constants_, table, plan().degree, at(x, i), at(y, i), index * block + lane, count);
      } else {
        const T* scale = tile_.data() + index * repeated + lane;
        const TileKernel<T> kernel = vectors ? kernels_.vector : kernels_.tile;
        kernel(constants_, rows_[0], plan().degree, scale, scale + tile_stride_, at(x, i), at(y, i), count);
      }
      i += count;
    }
  }

  // Short runs side by side, each with its own row.
  void lanes(const LaneTable& table, const void* x, void* y, int64_t begin, int64_t end) const {
    const Lanes<T> lanes = lanes_of(table);
    for (int64_t i = begin; i < end;) {
      const int64_t lane = i % table.lanes, count = std::min(end - i, table.lanes - lane);
      kernels_.lane(constants_, lanes, plan().degree, at(x, i), at(y, i), lane, count);
      i += count;
    }
  }
};

}  // namespace

template <class T>
std::unique_ptr<const Activation> Activation::make(const Config& config, Dtype dtype, const Coefficients<T>& c, std::string* error,
                                                   const InstructionSet& set) {
  *error = check_coefficients(config, c);
  return error->empty() ? std::make_unique<CpuActivation<T>>(make_plan(config), dtype, c, set, true) : nullptr;
}

template <class T>
std::unique_ptr<const Activation> Activation::make_unchecked(const Config& config, Dtype dtype, const Coefficients<T>& c,
                                                             const InstructionSet& set) {
  return std::make_unique<CpuActivation<T>>(make_plan(config), dtype, c, set, false);
}

template std::unique_ptr<const Activation> Activation::make(const Config&, Dtype, const Coefficients<float>&, std::string*,
                                                            const InstructionSet&);
template std::unique_ptr<const Activation> Activation::make(const Config&, Dtype, const Coefficients<double>&, std::string*,
                                                            const InstructionSet&);
template std::unique_ptr<const Activation> Activation::make_unchecked(const Config&, Dtype, const Coefficients<float>&, const InstructionSet&);
template std::unique_ptr<const Activation> Activation::make_unchecked(const Config&, Dtype, const Coefficients<double>&, const InstructionSet&);

}  // namespace opau
