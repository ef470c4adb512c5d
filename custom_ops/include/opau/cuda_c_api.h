/* The CUDA kernels through the library's plain C interface. Results and messages as in c_api.h.
 * A library without CUDA kernels has these functions too; they say so. */
#ifndef OPAU_CUDA_C_API_H_
#define OPAU_CUDA_C_API_H_
#include "opau/c_api.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct opau_cuda_activation opau_cuda_activation;

/* 1 where the library has CUDA kernels. Says nothing of a device. */
OPAU_EXPORT int opau_cuda_built(void);

/* As opau_create; loads the kernel for the current device. */
OPAU_EXPORT const char* opau_cuda_create(const char* basis, const char* form, int64_t k, int64_t l, int64_t groups, int dtype,
                                         const void* numerator, int64_t numerator_rows, const void* denominator,
                                         int64_t denominator_rows, const void* scale, const void* shift,
                                         opau_cuda_activation** out);
OPAU_EXPORT void opau_cuda_destroy(opau_cuda_activation*);

/* Bytes of device memory that the coefficients want; 0: none. opau_cuda_upload fills it and waits; the memory stays the caller's, and
 * has to live as long as the activation. Without it, many groups run too, in several launches. */
OPAU_EXPORT int64_t opau_cuda_device_bytes(const opau_cuda_activation*);
OPAU_EXPORT const char* opau_cuda_upload(opau_cuda_activation*, void* memory);

/* y from x, device pointers to outer x channels x inner elements; they may be equal. Enqueued on `stream` (a cudaStream_t) without
 * allocating, copying or waiting, so that CUDA graphs can capture it. */
OPAU_EXPORT const char* opau_cuda_run(const opau_cuda_activation*, const void* x, void* y, int64_t outer, int64_t channels,
                                      int64_t inner, void* stream);

#ifdef __cplusplus
}
#endif
#endif
