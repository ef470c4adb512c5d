// AVX-512 (F, BW, VL, DQ): 16 floats or 8 doubles; comparisons give mask registers.
#pragma once
#include <immintrin.h>

#include "opau/value_scalar.hpp"

namespace opau::OPAU_TARGET {

struct FloatOps {
  using T = float;
  using V = __m512;
  using M = __mmask16;
  static constexpr int kWidth = 16;
  static OPAU_INLINE V set(T a) { return _mm512_set1_ps(a); }
  static OPAU_INLINE V set(V a) { return a; }
  static OPAU_INLINE V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
  static OPAU_INLINE V add(V a, V b) { return _mm512_add_ps(a, b); }
  static OPAU_INLINE V mul(V a, V b) { return _mm512_mul_ps(a, b); }
  static OPAU_INLINE V div(V a, V b) { return _mm512_div_ps(a, b); }
  static OPAU_INLINE V abs(V a) { return _mm512_abs_ps(a); }
  // By table: 0 to itself, negative to -1, positive to 1, NaN to itself.
  static OPAU_INLINE V sign(V a) { return _mm512_fixupimm_ps(a, a, _mm512_set1_epi32(int(0xa9a9a000)), 0); }
  static OPAU_INLINE M less(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static OPAU_INLINE M either(M a, M b) { return M(a | b); }
  static OPAU_INLINE bool any(M m) { return m != 0; }
  static OPAU_INLINE V select(M m, V a, V b) { return _mm512_mask_blend_ps(m, b, a); }
  static OPAU_INLINE void fence() { _mm_sfence(); }
};

struct DoubleOps {
  using T = double;
  using V = __m512d;
  using M = __mmask8;
  static constexpr int kWidth = 8;
  static OPAU_INLINE V set(T a) { return _mm512_set1_pd(a); }
  static OPAU_INLINE V set(V a) { return a; }
  static OPAU_INLINE V fma(V a, V b, V c) { return _mm512_fmadd_pd(a, b, c); }
  static OPAU_INLINE V add(V a, V b) { return _mm512_add_pd(a, b); }
  static OPAU_INLINE V mul(V a, V b) { return _mm512_mul_pd(a, b); }
  static OPAU_INLINE V div(V a, V b) { return _mm512_div_pd(a, b); }
  static OPAU_INLINE V abs(V a) { return _mm512_abs_pd(a); }
  static OPAU_INLINE V sign(V a) { return _mm512_fixupimm_pd(a, a, _mm512_set1_epi64(0xa9a9a000), 0); }
  static OPAU_INLINE M less(V a, V b) { return _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ); }
  static OPAU_INLINE M either(M a, M b) { return M(a | b); }
  static OPAU_INLINE bool any(M m) { return m != 0; }
  static OPAU_INLINE V select(M m, V a, V b) { return _mm512_mask_blend_pd(m, b, a); }
  static OPAU_INLINE void fence() { _mm_sfence(); }
};

template <>
struct Io<FloatOps, Dtype::float32> {
  using Element = float;
  static OPAU_INLINE __m512 load(const Element* p) { return _mm512_loadu_ps(p); }
  static OPAU_INLINE void store(Element* p, __m512 v) { _mm512_storeu_ps(p, v); }
  static OPAU_INLINE void stream(Element* p, __m512 v) { _mm512_stream_ps(p, v); }
};

template <>
struct Io<DoubleOps, Dtype::float64> {
  using Element = double;
  static OPAU_INLINE __m512d load(const Element* p) { return _mm512_loadu_pd(p); }
  static OPAU_INLINE void store(Element* p, __m512d v) { _mm512_storeu_pd(p, v); }
  static OPAU_INLINE void stream(Element* p, __m512d v) { _mm512_stream_pd(p, v); }
};

template <>
struct Io<FloatOps, Dtype::float16> {
  using Element = uint16_t;
  static OPAU_INLINE __m512 load(const Element* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static OPAU_INLINE __m256i pack(__m512 v) { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
  static OPAU_INLINE void store(Element* p, __m512 v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), pack(v)); }
  static OPAU_INLINE void stream(Element* p, __m512 v) { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), pack(v)); }
};

template <>
struct Io<FloatOps, Dtype::bfloat16> {
  using Element = uint16_t;
  static OPAU_INLINE __m512 load(const Element* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
  // In the high halves. No case for NaN: every NaN here comes from a bfloat16 or is the processor's default, so its low half is 0
  // and no carry arises.
  static OPAU_INLINE __m512i rounded(__m512 v) {
    const __m512i u = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    return _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  }
  static OPAU_INLINE __m256i pack(__m512 v) { return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded(v), 16)); }
  static OPAU_INLINE void store(Element* p, __m512 v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), pack(v)); }
  static OPAU_INLINE void stream(Element* p, __m512 v) { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), pack(v)); }
  // Two vectors of neighbours, the even ones and the odd ones: nothing is widened or packed.
  static OPAU_INLINE void load(const Element* p, __m512 (&v)[2]) {
    const __m512i both = _mm512_loadu_si512(p);
    v[0] = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
    v[1] = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(int(0xffff0000))));
  }
  static OPAU_INLINE __m512i pack(const __m512 (&v)[2]) {
    return _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(rounded(v[0]), 16), rounded(v[1]));
  }
  static OPAU_INLINE void store(Element* p, const __m512 (&v)[2]) { _mm512_storeu_si512(p, pack(v)); }
  static OPAU_INLINE void stream(Element* p, const __m512 (&v)[2]) {  // aligned for one vector
    const __m512i both = pack(v);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), _mm512_castsi512_si256(both));
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p) + 1, _mm512_extracti64x4_epi64(both, 1));
  }
};

}  // namespace opau::OPAU_TARGET
