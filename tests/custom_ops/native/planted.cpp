// Kernels with a fault planted in them, for opau_certify: every path goes through the same scalar formula in the definition's recurrence.
//
// Linked with custom_ops/certify/ and cpu/prepare.cpp in place of the kernels, it compiles in seconds. `plant` chooses the fault.
#include <cmath>
#include <cstring>
#include <limits>

#include "opau/activation.hpp"
#include "opau/c_api.h"

#define OPAU_TARGET planted
#include "opau/evaluate.hpp"
#include "opau/value_scalar.hpp"

namespace {

enum Plant {
  kNothing, kZeroOnAnInterval, kShiftedOnAnInterval, kStreamingStores, kLanes, kTiles, kBlocks, kAffineShift, kInPlace, kOneSetsBits,
  kSignOfInfinity, kOverflow, kBeyondTheEnd, kRuns, kSlowSetsLanes, kNaN, kOneConstant, kRepeatedSetsBits,
  kRepeatedSetsTiles,
};
int fault = kNothing;

}  // namespace

extern "C" OPAU_EXPORT void plant(int which) { fault = which; }

namespace opau {
namespace {

using Scalar = planted::ScalarOps<float>;

float decoded(Dtype dtype, const void* x, int64_t i) {
  if (dtype == Dtype::float32) return planted::Io<Scalar, Dtype::float32>::load(static_cast<const float*>(x) + i);
  if (dtype == Dtype::float16) return planted::Io<Scalar, Dtype::float16>::load(static_cast<const uint16_t*>(x) + i);
  return planted::Io<Scalar, Dtype::bfloat16>::load(static_cast<const uint16_t*>(x) + i);
}

void encode(Dtype dtype, void* y, int64_t i, float value) {
  if (dtype == Dtype::float32) planted::Io<Scalar, Dtype::float32>::store(static_cast<float*>(y) + i, value);
  if (dtype == Dtype::float16) planted::Io<Scalar, Dtype::float16>::store(static_cast<uint16_t*>(y) + i, value);
  if (dtype == Dtype::bfloat16) planted::Io<Scalar, Dtype::bfloat16>::store(static_cast<uint16_t*>(y) + i, value);
}

template <Mode mode>
float formula(const Constants<float>& k, const FullRow<float>& row, const Plan& plan, float x) {
  if (std::fabs(x) > k.limit) return planted::scaled<Scalar, mode>(k, row, x);
  switch (plan.kind) {
    case Kind::power: return planted::ordinary<Scalar, Kind::power, mode>(k, row, plan.degree, x);
    case Kind::hermite: return planted::ordinary<Scalar, Kind::hermite, mode>(k, row, plan.degree, x);
    case Kind::symmetric: return planted::ordinary<Scalar, Kind::symmetric, mode>(k, row, plan.degree, x);
    default: return planted::ordinary<Scalar, Kind::general, mode>(k, row, plan.degree, x);
  }
}

class Planted final : public Activation {
 public:
  Planted(const Plan& plan, Dtype dtype, const Coefficients<float>& c, const InstructionSet& set)
      : Activation(plan, dtype), fast_(set.name == std::string("fast")), repeated_(set.again != nullptr), rows_differ_(c.numerator_rows > 1), affine_(c.affine_rows > 0) {
    const int exponent = common_exponent(plan, c);
    k_ = make_constants<float>(plan, exponent);
    for (int64_t g = 0; g < c.rows(); ++g) rows_.push_back(make_row(plan, c, g, exponent));
    if (fault == kOneConstant) k_.minus_centre[3] *= 1 + 0x1p-14f, k_.minus_gamma[2] *= 1 + 0x1p-14f;
  }

  void run(const void* x, void* y, const Extent& extent, int64_t begin, int64_t end, bool stream) const override {
    for (int64_t i = begin; i < end; ++i) encode(dtype(), y, i, one(decoded(dtype(), x, i), channel(extent, i), stream, x == y));
    if (fault == kBeyondTheEnd && rows_differ_ && end > begin) encode(dtype(), y, end, 0);
  }

 private:
  Constants<float> k_;
  std::vector<FullRow<float>> rows_;
  bool fast_, repeated_, rows_differ_, affine_;

  size_t channel(const Extent& e, int64_t i) const {
    if (rows_.size() == 1) return 0;
    const int64_t block = plan().config.block;
    const int64_t c = block ? i / (e.inner * block) % (e.channels / block) * block + i % block : i / e.inner % e.channels;
    const int64_t shift = (fault == kLanes && rows_differ_ && e.inner == 1) || (fault == kTiles && !rows_differ_ && !block) ||
                          (fault == kRepeatedSetsTiles && repeated_ && !rows_differ_ && !block) ||
                          (fault == kBlocks && block) || (fault == kRuns && e.inner > 8 && rows_differ_) ||
                          (fault == kSlowSetsLanes && !fast_ && rows_differ_);
    return size_t((c / (e.channels / int64_t(rows_.size())) + shift) % int64_t(rows_.size()));
  }

  float one(float x, size_t channel, bool stream, bool in_place) const {
    const FullRow<float>& row = rows_[channel];
    float at = affine_ ? std::fma(x, row.scale, fault == kAffineShift ? 0.0f : row.shift) : x;
    float y = plan().mode == Mode::terms ? formula<Mode::terms>(k_, row, plan(), at)
              : plan().mode == Mode::sum ? formula<Mode::sum>(k_, row, plan(), at)
                                         : formula<Mode::none>(k_, row, plan(), at);
    if (fault == kZeroOnAnInterval && at > -3 && at < -0.66f) y = 0;
    if (fault == kShiftedOnAnInterval && at > -2 && at < -1) y += 0.05f;
    if (fault == kStreamingStores && stream && at > 1) y = -y;
    if (fault == kInPlace && in_place) y = 2 * y;
    if (fault == kOneSetsBits && !fast_ && !repeated_ && at > 1 && at < 2) y = std::nextafter(y, 0.0f);
    if (fault == kRepeatedSetsBits && repeated_ && at > 0x1p-20f && at < 0x1p20f) y = std::nextafter(y, 0.0f);
    if (fault == kSignOfInfinity && std::isinf(x)) y = -y;
    if (fault == kOverflow && std::fabs(at) > 0x1p60f) y = std::numeric_limits<float>::infinity();
    if (fault == kNaN && at > -0.5f && at < -0.49f) y = std::numeric_limits<float>::quiet_NaN();
    return y;
  }
};

bool always() { return true; }
const InstructionSet kSlow{"slow", always, {}, {}, {}, {}}, kFast{"fast", always, {}, {}, {}, {}};
const InstructionSet kRepeated{"repeated", always, {}, {}, {}, {}, &kSlow};

}  // namespace

const std::vector<const InstructionSet*>& instruction_sets() {
  static const std::vector<const InstructionSet*> all{&kRepeated, &kSlow, &kFast};
  return all;
}

const InstructionSet& best_instruction_set() { return kFast; }

template <>
std::unique_ptr<const Activation> Activation::make(const Config& config, Dtype dtype, const Coefficients<float>& c, std::string* error,
                                                   const InstructionSet& set) {
  *error = check_coefficients(config, c);
  return error->empty() ? std::make_unique<Planted>(make_plan(config), dtype, c, set) : nullptr;
}

}  // namespace opau
