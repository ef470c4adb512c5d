// Elements of the formats that are swept, as numbers and as bits.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "opau/plan.hpp"

namespace opau::certify {

// What a result's format can hold, and its elements as numbers, written for the sweeps alone.
struct Format {
  int bytes, fraction, lowest;  // bits after the leading one; exponent of the smallest normal number
  double largest;
};

inline Format format(Dtype dtype) {
  if (dtype == Dtype::float16) return {2, 10, -14, 65504.0};
  if (dtype == Dtype::bfloat16) return {2, 7, -126, 0x1.fep127};
  return {4, 23, -126, 0x1.fffffep127};
}

inline double number(uint32_t bits, const Format& f) {
  if (f.bytes == 4) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
  }
  const uint32_t fraction = bits & ((1u << f.fraction) - 1), top = (1u << (15 - f.fraction)) - 1;
  const uint32_t exponent = (bits >> f.fraction) & top;
  const double sign = bits >> 15 ? -1.0 : 1.0;
  if (exponent == top) return fraction ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  const double size = fraction + (exponent ? double(1u << f.fraction) : 0.0);
  return sign * std::ldexp(size, (exponent ? int(exponent) - 1 : 0) + f.lowest - f.fraction);
}

inline double ulp(double value, const Format& f) {
  uint64_t bits;
  std::memcpy(&bits, &value, 8);
  int exponent = int(bits >> 52 & 0x7ff) - 1023;
  if (exponent < f.lowest) exponent = f.lowest;
  const uint64_t power = uint64_t(exponent - f.fraction + 1023) << 52;
  double out;
  std::memcpy(&out, &power, 8);
  return out;
}

inline uint32_t element(const unsigned char* at, int i, const Format& f) {
  uint32_t bits = 0;
  if (f.bytes == 4) {  // sizes that the compiler knows: no calls
    std::memcpy(&bits, at + i * 4, 4);
  } else {
    std::memcpy(&bits, at + i * 2, 2);
  }
  return bits;
}

inline void put(unsigned char* at, int i, uint32_t bits, const Format& f) {
  if (f.bytes == 4) {
    std::memcpy(at + i * 4, &bits, 4);
  } else {
    std::memcpy(at + i * 2, &bits, 2);
  }
}

inline bool same(uint32_t a, uint32_t b, const Format& f) { return a == b || (std::isnan(number(a, f)) && std::isnan(number(b, f))); }

}  // namespace opau::certify
