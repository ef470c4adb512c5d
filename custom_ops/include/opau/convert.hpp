// float16 and bfloat16 as bit patterns, in portable code: to float32 exactly, back rounded to nearest even.
// The vector units' own conversions give the same bits; for NaN too: the sign and the top bits of the payload stay, quietened.
#pragma once
#include <cstdint>
#include <cstring>

#include "opau/evaluate.hpp"

namespace opau::OPAU_TARGET {

OPAU_INLINE uint32_t bits_of(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return u;
}

OPAU_INLINE float float_of(uint32_t u) {
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}

OPAU_INLINE float from_bfloat16(uint16_t h) { return float_of(uint32_t(h) << 16); }

OPAU_INLINE uint16_t to_bfloat16(float x) {
  const uint32_t u = bits_of(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return uint16_t((u >> 16) | 0x40u);
  return uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

OPAU_INLINE float from_float16(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000u) << 16, rest = h & 0x7fffu;
  if (rest >= 0x7c00u) return float_of(sign | 0x7f800000u | ((rest & 0x3ffu) << 13) | (rest > 0x7c00u ? 0x400000u : 0u));
  if (rest >= 0x400u) return float_of(sign | ((rest << 13) + 0x38000000u));
  const float tiny = float(rest) * 5.9604644775390625e-8f;  // a subnormal: rest * 2**-24, exact
  return float_of(sign | bits_of(tiny));
}

OPAU_INLINE uint16_t to_float16(float x) {
  const uint32_t u = bits_of(x), size = u & 0x7fffffffu;
  const uint16_t sign = uint16_t((u >> 16) & 0x8000u);
  if (size > 0x7f800000u) return uint16_t(sign | 0x7e00u | ((size >> 13) & 0x3ffu));
  if (size >= 0x477ff000u) return uint16_t(sign | 0x7c00u);  // from 65520 on it rounds to infinity
  if (size < 0x38800000u) {  // subnormal: adding 1/2 rounds at 2**-24
    return uint16_t(sign | uint16_t(bits_of(float_of(size) + 0.5f) - 0x3f000000u));
  }
  return uint16_t(sign | ((size - 0x38000000u + 0xfffu + ((size >> 13) & 1u)) >> 13));
}

}  // namespace opau::OPAU_TARGET
