/* Training on a CUDA device through the library's plain C interface; functions are made by training_api.h. Every pointer but `function`
 * and `stream` (a cudaStream_t) is to memory of the current device. Calls are enqueued on the stream, and allocate, copy and wait for
 * nothing, so that CUDA graphs can capture them. Sums have the same bits at every call and on every device. */
#ifndef OPAU_CUDA_TRAINING_API_H_
#define OPAU_CUDA_TRAINING_API_H_
#include "opau/training_api.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes, aligned to 16, that a call needs as its workspace until it has run. rows: of the coefficients, the larger number. sums: 1 for a
 * backward pass that gives the coefficients' gradients. -1 for a dtype that is not known, or without CUDA kernels. */
OPAU_EXPORT int64_t opau_cuda_workspace(const opau_function* function, int dtype, int64_t rows, int64_t outer, int64_t channels,
                                        int64_t inner, int sums);

/* As opau_forward. Coefficients far below the smallest normal number are taken as they are: the factor by which others normalise them
 * (prepare.hpp) would have to be read from the device. */
OPAU_EXPORT const char* opau_cuda_forward(const opau_function* function, int dtype, const void* numerator, int64_t numerator_rows,
                                          const void* denominator, int64_t denominator_rows, const void* x, void* y, int64_t outer,
                                          int64_t channels, int64_t inner, void* workspace, void* stream);

/* As opau_backward. */
OPAU_EXPORT const char* opau_cuda_backward(const opau_function* function, int dtype, const void* numerator, int64_t numerator_rows,
                                           const void* denominator, int64_t denominator_rows, const void* x, const void* g, void* dx,
                                           void* numerator_gradient, void* denominator_gradient, int64_t outer, int64_t channels,
                                           int64_t inner, void* workspace, void* stream);

#ifdef __cplusplus
}
#endif
#endif
