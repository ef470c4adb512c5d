/* Training through the plain C interface: no header of any framework, so one build serves every version of them.
 * Messages as in c_api.h. */
#ifndef OPAU_TRAINING_API_H_
#define OPAU_TRAINING_API_H_
#include "opau/c_api.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Runs body over [begin, end) on the caller's threads, at least `grain` at a time, and returns when all is done; 0 is success.
 * libtorch's torch_parallel_for is one. */
typedef int32_t (*opau_parallel_for)(int64_t begin, int64_t end, int64_t grain, void (*body)(int64_t, int64_t, void*), void* context);

/* Which function, apart from its coefficients: made once, used by any number of threads. */
typedef struct opau_function opau_function;
OPAU_EXPORT const char* opau_function_create(const char* basis, const char* form, int64_t k, int64_t l, int64_t groups,
                                             int instruction_set, opau_function** out);
OPAU_EXPORT void opau_function_destroy(opau_function*);

/* Coefficients as in opau_create. Tensors of outer x channels x inner elements of `dtype`. parallel: null for one thread, this one. */
OPAU_EXPORT const char* opau_forward(const opau_function*, int dtype, const void* numerator, int64_t numerator_rows,
                                     const void* denominator, int64_t denominator_rows, const void* x, void* y, int64_t outer,
                                     int64_t channels, int64_t inner, opau_parallel_for parallel);
/* Gradients of sum(g y): dx as x, or null; the coefficients' in their shapes and dtype, both or neither null: summed in float64 and
 * rounded once. Neither x nor g may overlap dx. The same bits for any number of threads. */
OPAU_EXPORT const char* opau_backward(const opau_function*, int dtype, const void* numerator, int64_t numerator_rows,
                                      const void* denominator, int64_t denominator_rows, const void* x, const void* g, void* dx,
                                      void* numerator_gradient, void* denominator_gradient, int64_t outer, int64_t channels,
                                      int64_t inner, opau_parallel_for parallel);

#ifdef __cplusplus
}
#endif
#endif
