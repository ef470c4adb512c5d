// AVX2 with FMA and F16C: 8 floats or 4 doubles.
#pragma once
#include <immintrin.h>

#include "opau/value_scalar.hpp"

namespace opau::OPAU_TARGET {

struct FloatOps {
  using T = float;
  using V = __m256;
  static constexpr int kWidth = 8;
  static OPAU_INLINE V set(T a) { return _mm256_set1_ps(a); }
  static OPAU_INLINE V set(V a) { return a; }
  static OPAU_INLINE V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  static OPAU_INLINE V add(V a, V b) { return _mm256_add_ps(a, b); }
  static OPAU_INLINE V mul(V a, V b) { return _mm256_mul_ps(a, b); }
  static OPAU_INLINE V div(V a, V b) { return _mm256_div_ps(a, b); }
  static OPAU_INLINE V abs(V a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
  static OPAU_INLINE V less(V a, V b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
  static OPAU_INLINE V either(V a, V b) { return _mm256_or_ps(a, b); }
  static OPAU_INLINE bool any(V m) { return _mm256_movemask_ps(m) != 0; }
  static OPAU_INLINE V select(V m, V a, V b) { return _mm256_blendv_ps(b, a, m); }
  static OPAU_INLINE void fence() { _mm_sfence(); }
};

struct DoubleOps {
  using T = double;
  using V = __m256d;
  static constexpr int kWidth = 4;
  static OPAU_INLINE V set(T a) { return _mm256_set1_pd(a); }
  static OPAU_INLINE V set(V a) { return a; }
  static OPAU_INLINE V fma(V a, V b, V c) { return _mm256_fmadd_pd(a, b, c); }
  static OPAU_INLINE V add(V a, V b) { return _mm256_add_pd(a, b); }
  static OPAU_INLINE V mul(V a, V b) { return _mm256_mul_pd(a, b); }
  static OPAU_INLINE V div(V a, V b) { return _mm256_div_pd(a, b); }
  static OPAU_INLINE V abs(V a) { return _mm256_andnot_pd(_mm256_set1_pd(-0.0), a); }
  static OPAU_INLINE V less(V a, V b) { return _mm256_cmp_pd(a, b, _CMP_LT_OQ); }
  static OPAU_INLINE V either(V a, V b) { return _mm256_or_pd(a, b); }
  static OPAU_INLINE bool any(V m) { return _mm256_movemask_pd(m) != 0; }
  static OPAU_INLINE V select(V m, V a, V b) { return _mm256_blendv_pd(b, a, m); }
  static OPAU_INLINE void fence() { _mm_sfence(); }
};

template <>
struct Io<FloatOps, Dtype::float32> {
  using Element = float;
  static OPAU_INLINE __m256 load(const Element* p) { return _mm256_loadu_ps(p); }
  static OPAU_INLINE void store(Element* p, __m256 v) { _mm256_storeu_ps(p, v); }
  static OPAU_INLINE void stream(Element* p, __m256 v) { _mm256_stream_ps(p, v); }
};

template <>
struct Io<DoubleOps, Dtype::float64> {
  using Element = double;
  static OPAU_INLINE __m256d load(const Element* p) { return _mm256_loadu_pd(p); }
  static OPAU_INLINE void store(Element* p, __m256d v) { _mm256_storeu_pd(p, v); }
  static OPAU_INLINE void stream(Element* p, __m256d v) { _mm256_stream_pd(p, v); }
};

template <>
struct Io<FloatOps, Dtype::float16> {
  using Element = uint16_t;
  static OPAU_INLINE __m256 load(const Element* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static OPAU_INLINE __m128i pack(__m256 v) { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
  static OPAU_INLINE void store(Element* p, __m256 v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), pack(v)); }
  static OPAU_INLINE void stream(Element* p, __m256 v) { _mm_stream_si128(reinterpret_cast<__m128i*>(p), pack(v)); }
};

template <>
struct Io<FloatOps, Dtype::bfloat16> {
  using Element = uint16_t;
  static OPAU_INLINE __m256 load(const Element* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
  // In the high halves. No case for NaN: every NaN here comes from a bfloat16 or is the processor's default, so its low half is 0
  // and no carry arises.
  static OPAU_INLINE __m256i rounded(__m256 v) {
    const __m256i u = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    return _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  }
  static OPAU_INLINE __m128i pack(__m256 v) {
    const __m256i out = _mm256_srli_epi32(rounded(v), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(out), _mm256_extracti128_si256(out, 1));
  }
  static OPAU_INLINE void store(Element* p, __m256 v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), pack(v)); }
  static OPAU_INLINE void stream(Element* p, __m256 v) { _mm_stream_si128(reinterpret_cast<__m128i*>(p), pack(v)); }
  // Two vectors of neighbours, the even ones and the odd ones: nothing is widened or packed.
  static OPAU_INLINE void load(const Element* p, __m256 (&v)[2]) {
    const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    v[0] = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
    v[1] = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(int(0xffff0000))));
  }
  static OPAU_INLINE __m256i pack(const __m256 (&v)[2]) { return _mm256_blend_epi16(_mm256_srli_epi32(rounded(v[0]), 16), rounded(v[1]), 0xaa); }
  static OPAU_INLINE void store(Element* p, const __m256 (&v)[2]) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), pack(v)); }
  static OPAU_INLINE void stream(Element* p, const __m256 (&v)[2]) {  // aligned for one vector
    const __m256i both = pack(v);
    _mm_stream_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(both));
    _mm_stream_si128(reinterpret_cast<__m128i*>(p) + 1, _mm256_extracti128_si256(both, 1));
  }
};

}  // namespace opau::OPAU_TARGET
