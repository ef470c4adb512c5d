/* Holding the kernels against a float64 oracle on ranges of bit patterns: whole types, for opau-certify. */
#ifndef OPAU_CERTIFY_H_
#define OPAU_CERTIFY_H_
#include "opau/c_api.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One worst input: its bit pattern, the kernel's y, the oracle's value, the condition number, the error in ULP of the result. */
typedef struct {
  uint64_t x;
  double y, value, condition, ulp;
} opau_worst;

/* Results of one way through the kernels, compared by bits with those of the row kernel of the same instruction set. */
typedef struct {
  uint64_t compared, differences, first_difference;
} opau_variant;
#define OPAU_VARIANTS 10

typedef struct {
  uint64_t inputs;            /* compared, NaN and infinities too */
  uint64_t judged;            /* finite inputs whose value the dtype can hold and of which the oracle's bound says something */
  uint64_t unjudged;          /* finite inputs where it says nothing: Q may be anything, or is clamped beyond X0 */
  opau_worst any;             /* largest error of those judged */
  opau_worst conditioned;     /* the same where the condition number is below the limit and the bound a few ULP */
  opau_worst bounded;         /* the largest error over what the oracle's bound allows, which stands in `ulp` */
  uint64_t beyond;            /* errors beyond it */
  uint64_t first_beyond;
  uint64_t violations;        /* NaN, infinity or a finite value where the range policy says something else */
  uint64_t first_violation;   /* the smallest such bit pattern */
  uint64_t differences;       /* inputs of which two instruction sets' row kernels give different bits */
  uint64_t first_difference;
  opau_variant variants[OPAU_VARIANTS];
} opau_certificate;

/* The name of a variant. */
OPAU_EXPORT const char* opau_certify_variant(int index);

/* Bit patterns first, first + stride, .. below last of a 16- or 32-bit dtype; where a float32 sample has a
 * stride, eight special numbers too. `numerator` and `denominator` are what the kernels get;
 * the oracle gets `exact_numerator` and `exact_denominator`, which are the same numbers but in tests that want a failure.
 * `done` counts inputs while it runs; setting *cancel ends it early with the message "cancelled". */
OPAU_EXPORT const char* opau_certify(const char* basis, const char* form, int64_t k, int64_t l, int dtype, const float* numerator,
                                     const float* denominator, const double* exact_numerator, const double* exact_denominator,
                                     double condition_limit, uint64_t first, uint64_t last, uint64_t stride, int threads,
                                     int64_t* done, const int* cancel, opau_certificate* out);

/* The oracle alone: value, condition number, bound and underflow (opau_onnx/core/oracle.py) of count inputs. */
OPAU_EXPORT const char* opau_oracle(const char* basis, const char* form, int64_t k, int64_t l, const double* numerator,
                                    const double* denominator, const double* x, int64_t count, double* value, double* condition,
                                    double* bound, double* underflow);

#ifdef __cplusplus
}
#endif
#endif
