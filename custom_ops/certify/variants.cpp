#include "certify/variants.hpp"

namespace opau::certify {
namespace {

struct Shape {
  int name;
  int64_t channels, inner, block;
  bool rows, affine, stream, in_place;
};

// Channels and runs that divide neither vectors nor blocks of inputs, so that every remainder is met.
constexpr Shape kShapes[] = {
    {0, 1, kInputs, 0, false, false, true, false}, {1, 1, kInputs, 0, false, false, false, true},
    {2, 1, kInputs, 0, false, true, false, false}, {3, 5, 1, 0, false, true, false, false},
    {4, 5, 1, 0, true, true, false, false},        {5, 3, 67, 0, true, true, true, false},
    {6, 24, 7, 8, true, true, false, false},       {7, 32, 5, 16, true, true, false, false},
    {8, 24, 7, 8, false, true, false, false},      {9, 32, 5, 16, false, true, false, false},
};

// Without a period that lanes, vectors or blocks have.
bool odd(int64_t channel, int salt) { return (uint64_t(channel + 1) * 0x9e3779b97f4a7c15ull >> (40 + salt)) & 1; }

std::string make(const Shape& shape, Config config, Dtype dtype, const float* c, const float* d, bool shifts, const InstructionSet& set,
                 Variant* out) {
  const int64_t groups = shape.channels, size = numerator_size(config), below = denominator_size(config);
  out->name = shape.name;
  out->extent = {kInputs, shape.channels, shape.inner};
  out->block = config.block = shape.block;
  out->stream = shape.stream;
  out->in_place = shape.in_place;
  config.groups = groups;
  std::vector<float> numerator, denominator, scale, shift;
  std::vector<Before> befores;
  std::vector<uint32_t> flips;
  const uint32_t sign = dtype == Dtype::float32 ? 1u << 31 : 1u << 15;
  for (int64_t g = 0; g < groups; ++g) {
    const bool negative = shape.rows && odd(g, 0);
    const Before before = !shape.affine ? kPlain : shifts && odd(g, 3) ? kShifted : groups == 1 || odd(g, 7) ? kMirrored : kPlain;
    flips.push_back(negative ? sign : 0);
    befores.push_back(before);
    scale.push_back(before == kShifted ? kScale : before == kMirrored ? -1.0f : 1.0f);
    shift.push_back(before == kShifted ? kShift : -0.0f);
    for (int64_t i = 0; i < size; ++i) numerator.push_back(negative ? -c[i] : c[i]);
    denominator.insert(denominator.end(), d, d + below);
  }
  for (int i = 0; i < kInputs; ++i) {
    const size_t channel = size_t(out->channel(i));
    out->before[i] = befores[channel];
    out->flip[i] = flips[channel];
  }
  Coefficients<float> all{numerator.data(), shape.rows ? groups : 1, denominator.data(), shape.rows ? groups : 1};
  if (shape.affine) all.scale = scale.data(), all.shift = shift.data(), all.affine_rows = groups;
  std::string error;
  out->activation = Activation::make<float>(config, dtype, all, &error, set);
  return error;
}

}  // namespace

std::string make_variants(const Config& config, Dtype dtype, const float* numerator, const float* denominator, bool shifts,
                          const InstructionSet& set, std::vector<Variant>* out) {
  for (const Shape& shape : kShapes) {
    Variant made{};
    if (auto error = make(shape, config, dtype, numerator, denominator, shifts, set, &made); !error.empty()) return error;
    out->push_back(std::move(made));
  }
  return "";
}

}  // namespace opau::certify
