// Every way through the kernels other than one row on the whole tensor: each must give the row kernel's bits.
//
// What a channel's element must become is known from the row kernel: its coefficients are the certified ones or those with the
// numerator negated, which negates y exactly, and its affine is none, -1 x, or one with a shift, whose result goes through the row kernel.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "opau/activation.hpp"

namespace opau::certify {

inline constexpr int kInputs = 512;  // of a block

// What is done to x first.
enum Before : unsigned char { kPlain, kMirrored, kShifted, kBefores };
inline constexpr float kScale = 0.75f, kShift = -0.375f;

// Indices are the library's; names are part of certificates.
inline constexpr const char* kVariantNames[] = {
    "streaming stores", "in place", "affine", "tiles", "lanes", "runs", "lanes in blocks of 8", "lanes in blocks of 16",
    "tiles in blocks of 8", "tiles in blocks of 16",
};
inline constexpr int kVariants = int(sizeof(kVariantNames) / sizeof(kVariantNames[0]));

struct Variant {
  int name;
  std::unique_ptr<const Activation> activation;
  Extent extent;
  int64_t block = 0;
  bool stream = false, in_place = false;
  Before before[kInputs];  // of each input, as its channel has them
  uint32_t flip[kInputs];  // the sign's bit where the numerator is negated

  int64_t channel(int64_t i) const {
    if (!block) return i / extent.inner % extent.channels;
    return i / (extent.inner * block) % (extent.channels / block) * block + i % block;
  }
};

// "" or what is wrong. `shifts`: whether the dtype can hold scaled and shifted inputs as they are computed (float32).
std::string make_variants(const Config&, Dtype, const float* numerator, const float* denominator, bool shifts, const InstructionSet&,
                          std::vector<Variant>* out);

}  // namespace opau::certify
