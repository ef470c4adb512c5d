#include "opau/training.hpp"

#include <algorithm>

#include "opau/gradient.hpp"
#include "opau/rows.hpp"

namespace opau {

extern const GradientKernels kScalarGradients;
#if defined(__x86_64__) || defined(_M_X64)
extern const GradientKernels kAvx2Gradients, kAvx512Gradients;
#elif defined(__aarch64__)
extern const GradientKernels kNeonGradients;
#endif

// In the order of instruction_sets().
const GradientKernels& gradient_kernels(const InstructionSet& set) {
  static const GradientKernels* const all[] = {
      &kScalarGradients,
#if defined(__x86_64__) || defined(_M_X64)
      &kScalarGradients,  // of scalar_fma: too seldom the fastest to compile them once more
      &kAvx2Gradients,
      &kAvx512Gradients,
#elif defined(__aarch64__)
      &kNeonGradients,
#endif
  };
  const auto& sets = instruction_sets();
  return *all[std::find(sets.begin(), sets.end(), &set) - sets.begin()];
}

namespace {

// Elements of a piece of work, whatever the number of threads: small enough to share out, large against a piece's fixed cost.
constexpr int64_t kPiece = 32 * 1024;
// Runs of one row that are shorter than this many vectors of sums go by lanes.
constexpr int64_t kShortRun = 4;
// Pieces by lanes: so many lanes side by side, so many elements of each.
constexpr int64_t kPieceLanes = 64, kPieceSteps = 512;
constexpr int64_t kStreamBytes = 24 * 1024 * 1024;  // as in ort/cpu_kernel.cpp

const GradientSet<float>& kernels(const GradientKernels& all, Dtype dtype, float) {
  return dtype == Dtype::float16 ? all.float16 : dtype == Dtype::bfloat16 ? all.bfloat16 : all.float32;
}
const GradientSet<double>& kernels(const GradientKernels& all, Dtype, double) { return all.float64; }

template <class T>
FullGradientRow<T> gradient_row(const Plan& plan, const Constants<T>& k, const Coefficients<T>& from, int64_t group) {
  FullGradientRow<T> row{};
  static_cast<FullRow<T>&>(row) = make_row(plan, from, group);
  OPAU_TARGET::complete(k, &row);
  return row;
}

// Everything that the pieces of a backward pass share.
template <class T>
class Backward {
 public:
  Backward(const Config& config, Dtype dtype, const Coefficients<T>& c, const InstructionSet& set, const void* x, const void* g,
           const Gradients<T>& to, const Extent& extent)
      : plan_(make_plan(config)), k_(make_constants<T>(plan_)), dtype_(dtype), extent_(extent), x_(x), g_(g), to_(to), c_(c) {
    const bool wanted = to.numerator != nullptr;
    const GradientSet<T>& table = kernels(gradient_kernels(set), dtype, T());
    run_ = table.run[int(plan_.kind)][int(plan_.mode)][wanted];
    lane_ = table.lanes[int(plan_.kind)][int(plan_.mode)][wanted];
    groups_ = c.rows();
    for (int64_t group = 0; group < groups_; ++group) rows_.push_back(gradient_row(plan_, k_, c, group));
    cut();
    if (wanted) sums_.assign(size_t(pieces_ * per_piece_ * kSums), 0.0);
  }

  void run(const Parallel& parallel) {
    if (extent_.count()) parallel.run(pieces_, [](int64_t begin, int64_t end, void* self) {
      for (int64_t i = begin; i < end; ++i) static_cast<Backward*>(self)->piece(i);
    }, this);
    if (to_.numerator) collect();
  }

 private:
  const Plan plan_;
  const Constants<T> k_;
  const Dtype dtype_;
  const Extent extent_;
  const void *const x_, *const g_;
  const Gradients<T> to_;
  const Coefficients<T> c_;
  RunGradient<T> run_;
  LaneGradient<T> lane_;
  std::vector<FullGradientRow<T>> rows_;
  int64_t groups_;
  // x as (outer, groups, length); by lanes as (outer, lanes), and a rest of less than `lanes` elements.
  int64_t outer_ = 1, length_ = 0, lanes_ = 0;
  int64_t steps_ = 1, strips_ = 1, pieces_ = 1, per_piece_ = 1;
  std::vector<T> values_;  // of the lanes
  std::vector<double> sums_;

  bool by_lanes() const { return lanes_ > 0; }

  void cut() {
    const int64_t sum_lanes = 64 / int64_t(sizeof(T)), count = extent_.count();
    length_ = groups_ == 1 ? count : extent_.channels / groups_ * extent_.inner;
    if (groups_ == 1) {
      pieces_ = (count + kPiece - 1) / kPiece;
    } else if (length_ >= kShortRun * sum_lanes) {
      outer_ = extent_.outer;
      strips_ = (length_ + kPiece - 1) / kPiece;
      steps_ = std::max<int64_t>(1, kPiece / std::max<int64_t>(1, length_));
      pieces_ = (outer_ + steps_ - 1) / steps_ * groups_ * strips_;
    } else if (count) {
      cut_lanes(sum_lanes, count);
    }
  }

  // Several periods of the groups side by side, where one alone would not fill the lanes.
  void cut_lanes(int64_t sum_lanes, int64_t count) {
    const int64_t period = groups_ * length_;
    lanes_ = std::min(count, period * ((8 * sum_lanes - 1) / period + 1));
    outer_ = count / lanes_;
    steps_ = kPieceSteps;
    strips_ = (lanes_ + kPieceLanes - 1) / kPieceLanes;
    per_piece_ = kPieceLanes;
    pieces_ = ((outer_ + steps_ - 1) / steps_ + (count % lanes_ ? 1 : 0)) * strips_;
    const int64_t stride = lanes_ + 16;
    values_.assign(size_t(stride * (2 * kRowSize + kUnrolledK + 1)), T(0));
    for (int64_t n = 0; n < stride; ++n) {
      const FullGradientRow<T>& row = rows_[size_t(n / length_ % groups_)];
      const auto put = [&](int i, T value) { values_[size_t(i * stride + n)] = value; };
      for (int i = 0; i < kRowSize; ++i) put(i, row.c[i]), put(kRowSize + i, row.d[i]);
      for (int i = 0; i <= kUnrolledK; ++i) put(2 * kRowSize + i, row.p[i]);
    }
  }

  void piece(int64_t index) {
    double* sums = sums_.empty() ? nullptr : &sums_[size_t(index * per_piece_ * kSums)];
    if (by_lanes()) {
      lane_piece(index, sums);
    } else if (groups_ == 1) {
      const int64_t begin = index * kPiece;
      call(0, begin, {nullptr, nullptr, nullptr, 1, std::min(kPiece, length_ - begin), 0}, sums);
    } else {
      const int64_t strip = index % strips_, group = index / strips_ % groups_, first = index / strips_ / groups_ * steps_;
      const int64_t begin = strip * kPiece, period = groups_ * length_;
      call(group, first * period + group * length_ + begin,
           {nullptr, nullptr, nullptr, std::min(steps_, outer_ - first), std::min(kPiece, length_ - begin), period}, sums);
    }
  }

  Runs placed(int64_t begin, Runs at) const {
    const int64_t offset = begin * element_size(dtype_);
    at.x = static_cast<const char*>(x_) + offset;
    at.g = static_cast<const char*>(g_) + offset;
    at.dx = to_.dx ? static_cast<char*>(to_.dx) + offset : nullptr;
    return at;
  }

  void call(int64_t group, int64_t begin, const Runs& at, double* sums) const {
    run_(k_, rows_[size_t(group)], plan_.degree, placed(begin, at), sums);
  }

  void lane_piece(int64_t index, double* sums) const {
    const int64_t sum_lanes = 64 / int64_t(sizeof(T)), full = (outer_ + steps_ - 1) / steps_;
    const int64_t strip = index % strips_, part = index / strips_;
    const int64_t rest = extent_.count() % lanes_, width = part < full ? lanes_ : rest;
    const GradientLanes<T> table{values_.data(), lanes_ + 16, length_, groups_, rows_[0].third, rows_.data()};
    const int64_t end = std::min((strip + 1) * kPieceLanes, width);
    for (int64_t lane = strip * kPieceLanes; lane < end; lane += sum_lanes) {
      const int64_t row = part < full ? part * steps_ : outer_, rows = part < full ? std::min(steps_, outer_ - row) : 1;
      const Runs at = placed(row * lanes_ + lane, {nullptr, nullptr, nullptr, rows, std::min(sum_lanes, end - lane), lanes_});
      lane_(k_, table, plan_.degree, lane, at, sums ? sums + (lane - strip * kPieceLanes) * kSums : nullptr);
    }
  }

  // The pieces' sums in their order, from the monic rows to f_n, into the rows that the coefficients have.
  void collect() {
    const Definition def = make_definition(plan_);
    const int64_t c_size = def.c_size, d_size = def.d_size;
    std::vector<double> c_total(size_t(c_.numerator_rows * c_size)), d_total(size_t(c_.denominator_rows * d_size));
    for (int64_t piece = 0; extent_.count() && piece < pieces_; ++piece) {
      for (int64_t i = 0; i < per_piece_; ++i) {
        const double* sums = &sums_[size_t((piece * per_piece_ + i) * kSums)];
        const int64_t group = by_lanes() ? (piece % strips_ * kPieceLanes + i) / length_ % groups_ : piece / strips_ % groups_;
        double* c = c_total.data() + (c_.numerator_rows > 1 ? group * c_size : 0);
        double* d = d_total.data() + (c_.denominator_rows > 1 ? group * d_size : 0);
        for (int64_t n = 0; n < c_size; ++n) c[n] += sums[n] * def.leading[n];
        const T* given = c_.denominator + (c_.denominator_rows > 1 ? group * d_size : 0);
        for (int64_t n = 0; n < d_size; ++n) {
          const int degree = int(n) + def.first;
          const double slope = OPAU_TARGET::weight_slope(def, given[n], degree);
          if (slope != 0) d[n] += sums[kRowSize + degree] * slope;  // the sum may be infinite where the slope is 0
        }
      }
    }
    std::transform(c_total.begin(), c_total.end(), to_.numerator, [](double v) { return T(v); });
    std::transform(d_total.begin(), d_total.end(), to_.denominator, [](double v) { return T(v); });
  }
};

}  // namespace

template <class T>
std::string train_forward(const Config& config, Dtype dtype, const Coefficients<T>& c, const InstructionSet& set, const void* x, void* y,
                          const Extent& extent, const Parallel& parallel) {
  const auto activation = Activation::make_unchecked(config, dtype, c, set);
  struct Work {
    const Activation& activation;
    const void* x;
    void* y;
    const Extent& extent;
    bool stream;
  } work{*activation, x, y, extent, element_size(dtype) >= 4 && 2 * extent.count() * element_size(dtype) > kStreamBytes};
  parallel.run((extent.count() + kPiece - 1) / kPiece, [](int64_t begin, int64_t end, void* self) {
    const Work& w = *static_cast<const Work*>(self);
    w.activation.run(w.x, w.y, w.extent, begin * kPiece, std::min(end * kPiece, w.extent.count()), w.stream);
  }, &work);
  return "";
}

template <class T>
std::string train_backward(const Config& config, Dtype dtype, const Coefficients<T>& c, const InstructionSet& set, const void* x,
                           const void* g, const Gradients<T>& to, const Extent& extent, const Parallel& parallel) {
  Backward<T>(config, dtype, c, set, x, g, to, extent).run(parallel);
  return "";
}

#define OPAU_INSTANTIATE(T)                                                                                                        \
  template std::string train_forward(const Config&, Dtype, const Coefficients<T>&, const InstructionSet&, const void*, void*,     \
                                     const Extent&, const Parallel&);                                                             \
  template std::string train_backward(const Config&, Dtype, const Coefficients<T>&, const InstructionSet&, const void*,           \
                                      const void*, const Gradients<T>&, const Extent&, const Parallel&);
OPAU_INSTANTIATE(float)
OPAU_INSTANTIATE(double)

}  // namespace opau
