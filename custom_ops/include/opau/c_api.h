/* The library's plain C interface, beside onnxruntime's entry point: for tests, certification and other languages.
 * Functions that return const char* return NULL, or a message of what is wrong that is valid until the thread's next call. */
#ifndef OPAU_C_API_H_
#define OPAU_C_API_H_
#include <stdint.h>

#ifdef _WIN32
#define OPAU_EXPORT __declspec(dllexport)
#else
#define OPAU_EXPORT __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct opau_activation opau_activation;

OPAU_EXPORT const char* opau_version(void);

/* Instruction sets compiled in, slowest first. */
OPAU_EXPORT int opau_instruction_set_count(void);
OPAU_EXPORT const char* opau_instruction_set_name(int index);
OPAU_EXPORT int opau_instruction_set_available(int index);

/* dtype: 1 float32, 10 float16, 11 float64, 16 bfloat16 (ONNX's numbers). Coefficients: float64 for float64, else float32;
 * rows x size, rows 1 or groups. scale, shift: both null, or groups values each: then f(scale x + shift). instruction_set: an index, or -1 for the fastest that is available. */
OPAU_EXPORT const char* opau_create(const char* basis, const char* form, int64_t k, int64_t l, int64_t groups, int dtype,
                                    const void* numerator, int64_t numerator_rows, const void* denominator,
                                    int64_t denominator_rows, const void* scale, const void* shift, int instruction_set,
                                    opau_activation** out);
OPAU_EXPORT void opau_destroy(opau_activation*);

/* y[begin, end) from x[begin, end) of tensors of outer x channels x inner elements; one thread. */
OPAU_EXPORT const char* opau_run(const opau_activation*, const void* x, void* y, int64_t outer, int64_t channels, int64_t inner,
                                 int64_t begin, int64_t end, int stream);

#ifdef __cplusplus
}
#endif
#endif
