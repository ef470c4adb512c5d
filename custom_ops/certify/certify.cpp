#include "opau/certify.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "certify/oracle.hpp"
#include "opau/activation.hpp"

namespace opau {
namespace {

// What a result's format can hold, and its elements as numbers, written for this file alone.
struct Format {
  int bytes, fraction, lowest;  // bits after the leading one; exponent of the smallest normal number
  double largest;
};

Format format(Dtype dtype) {
  if (dtype == Dtype::float16) return {2, 10, -14, 65504.0};
  if (dtype == Dtype::bfloat16) return {2, 7, -126, 0x1.fep127};
  return {4, 23, -126, 0x1.fffffep127};
}

double number(uint32_t bits, const Format& f) {
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

double ulp(double value, const Format& f) {
  uint64_t bits;
  std::memcpy(&bits, &value, 8);
  int exponent = int(bits >> 52 & 0x7ff) - 1023;
  if (exponent < f.lowest) exponent = f.lowest;
  const uint64_t power = uint64_t(exponent - f.fraction + 1023) << 52;
  double out;
  std::memcpy(&out, &power, 8);
  return out;
}

struct Job {
  oracle::Function reference;
  Format format;
  bool safe;
  double limit;
  uint64_t first, last, stride;
  std::vector<std::unique_ptr<const Activation>> kernels;  // the last is the fastest
  std::atomic<uint64_t> next{0};
  int64_t* done;
  const int* cancel;
  std::mutex mutex;
  opau_certificate* out;
};

bool cancelled(const Job& job) { return __atomic_load_n(job.cancel, __ATOMIC_RELAXED) != 0; }

void keep(opau_worst& best, const opau_worst& found) {
  if (found.ulp > best.ulp || (found.ulp == best.ulp && found.x < best.x)) best = found;
}

void count(uint64_t& total, uint64_t& first, uint64_t x) {
  if (total++ == 0 || x < first) first = x;
}

// One result against the oracle.
void judge(const Job& job, uint64_t pattern, double x, double y, double value, double condition, opau_certificate& into) {
  ++into.inputs;
  const bool conditioned = condition < job.limit;
  if (std::isnan(x) || std::isinf(x)) {
    const bool right = std::isnan(x) ? std::isnan(y)
                       : std::fabs(value) > job.format.largest ? std::isinf(y) && (y > 0) == (value > 0)
                                                               : std::fabs(y - value) <= 16 * ulp(value, job.format);
    if (!right && (std::isnan(x) || job.safe)) count(into.violations, into.first_violation, pattern);
    return;
  }
  if (!job.safe && !conditioned) return;  // a pole may be near: nothing is promised
  if (std::fabs(value) > job.format.largest * (1 - 0x1p-6)) {  // at the border either the largest number or infinity is right
    const double size = std::fabs(y);
    if (!(size > job.format.largest * (1 - 0x1p-5)) || (y > 0) != (value > 0)) count(into.violations, into.first_violation, pattern);
    return;
  }
  if (!std::isfinite(y)) {
    count(into.violations, into.first_violation, pattern);
    return;
  }
  ++into.judged;
  const opau_worst found{pattern, y, value, condition, std::fabs(y - value) / ulp(value, job.format)};
  keep(into.any, found);
  if (conditioned) keep(into.conditioned, found);
}

struct Block {
  uint64_t pattern[oracle::kBlock];
  double x[oracle::kBlock], value[oracle::kBlock], condition[oracle::kBlock];
  unsigned char in[4 * oracle::kBlock], out[8][4 * oracle::kBlock];
};

uint32_t element(const unsigned char* at, int i, const Format& f) {
  uint32_t bits = 0;
  std::memcpy(&bits, at + i * f.bytes, size_t(f.bytes));
  return bits;
}

void one_block(Job& job, uint64_t index, Block& b, opau_certificate& into) {
  int n = 0;
  for (uint64_t p = job.first + index * oracle::kBlock * job.stride; n < oracle::kBlock && p < job.last; p += job.stride, ++n) {
    const uint32_t bits = uint32_t(p);
    b.pattern[n] = p;
    std::memcpy(b.in + n * job.format.bytes, &bits, size_t(job.format.bytes));
    b.x[n] = number(bits, job.format);
  }
  oracle::evaluate(job.reference, b.x, n, b.value, b.condition);
  const size_t last = job.kernels.size() - 1;
  for (size_t s = 0; s <= last; ++s) job.kernels[s]->run(b.in, b.out[s], {1, 1, n}, 0, n, false);
  for (int i = 0; i < n; ++i) {
    const uint32_t bits = element(b.out[last], i, job.format);
    const double y = number(bits, job.format);
    judge(job, b.pattern[i], b.x[i], y, b.value[i], b.condition[i], into);
    for (size_t s = 0; s < last; ++s) {
      const uint32_t other = element(b.out[s], i, job.format);
      if (other != bits && !(std::isnan(y) && std::isnan(number(other, job.format)))) {
        count(into.differences, into.first_difference, b.pattern[i]);
        break;
      }
    }
  }
  __atomic_fetch_add(job.done, int64_t(n), __ATOMIC_RELAXED);
}

void merge(opau_certificate& into, const opau_certificate& part) {
  into.inputs += part.inputs;
  into.judged += part.judged;
  keep(into.any, part.any);
  keep(into.conditioned, part.conditioned);
  if (part.violations && (!into.violations || part.first_violation < into.first_violation)) into.first_violation = part.first_violation;
  into.violations += part.violations;
  if (part.differences && (!into.differences || part.first_difference < into.first_difference)) into.first_difference = part.first_difference;
  into.differences += part.differences;
}

void work(Job& job) {
  constexpr uint64_t kTake = 64;  // blocks at a time
  const uint64_t inputs = (job.last - job.first + job.stride - 1) / job.stride;
  const uint64_t blocks = (inputs + oracle::kBlock - 1) / oracle::kBlock;
  const auto block = std::make_unique<Block>();
  opau_certificate found{};
  found.any.ulp = found.conditioned.ulp = -1;
  for (uint64_t at; (at = job.next.fetch_add(kTake)) < blocks && !cancelled(job);) {
    for (uint64_t i = at; i < at + kTake && i < blocks; ++i) one_block(job, i, *block, found);
  }
  const std::lock_guard<std::mutex> lock(job.mutex);
  merge(*job.out, found);
}

std::string make_kernels(const Config& config, Dtype dtype, const float* numerator, const float* denominator, Job* job) {
  for (const InstructionSet* set : instruction_sets()) {
    if (!set->available()) continue;
    std::string error;
    auto made = Activation::make<float>(config, dtype, {numerator, 1, denominator, 1}, &error, *set);
    if (!made) return error;
    job->kernels.push_back(std::move(made));
  }
  return "";
}

void run(Job& job, int threads) {
  std::vector<std::thread> helpers;
  for (int i = 1; i < threads; ++i) helpers.emplace_back([&job] { work(job); });
  work(job);
  for (std::thread& helper : helpers) helper.join();
}

const char* message(std::string text) {
  static thread_local std::string last;
  last = std::move(text);
  return last.empty() ? nullptr : last.c_str();
}

}  // namespace
}  // namespace opau

extern "C" {

const char* opau_certify(const char* basis, const char* form, int64_t k, int64_t l, int dtype, const float* numerator,
                         const float* denominator, const double* exact_numerator, const double* exact_denominator,
                         double condition_limit, uint64_t first, uint64_t last, uint64_t stride, int threads, int64_t* done,
                         const int* cancel, opau_certificate* out) try {
  using namespace opau;
  Config config;
  if (auto error = find_config(basis, form, k, l, 1, &config); !error.empty()) return message(error);
  if (dtype != 1 && dtype != 10 && dtype != 16) return "dtype must be 1 (float32), 10 (float16) or 16 (bfloat16)";
  const uint64_t all = dtype == 1 ? uint64_t(1) << 32 : uint64_t(1) << 16;
  if (last > all || first > last || stride == 0 || threads < 1) return "bit patterns outside the dtype, or no stride or thread";
  Job job;
  job.reference = {config.basis, config.form, config.k, config.l, exact_numerator, exact_denominator};
  job.format = format(Dtype(dtype));
  job.safe = tables::kForms[config.form].safe;
  job.limit = condition_limit;
  job.first = first;
  job.last = last;
  job.stride = stride;
  job.done = done;
  job.cancel = cancel;
  job.out = out;
  *out = {};
  out->any.ulp = out->conditioned.ulp = -1;
  if (auto error = make_kernels(config, Dtype(dtype), numerator, denominator, &job); !error.empty()) return message(error);
  run(job, threads);
  return cancelled(job) ? "cancelled" : nullptr;
} catch (const std::exception& error) {
  return opau::message(error.what());
}

const char* opau_oracle(const char* basis, const char* form, int64_t k, int64_t l, const double* numerator,
                        const double* denominator, const double* x, int64_t n, double* value, double* condition) try {
  using namespace opau;
  Config config;
  if (auto error = find_config(basis, form, k, l, 1, &config); !error.empty()) return message(error);
  const oracle::Function function{config.basis, config.form, config.k, config.l, numerator, denominator};
  for (int64_t i = 0; i < n; i += oracle::kBlock) {
    const int part = int(n - i < oracle::kBlock ? n - i : oracle::kBlock);
    oracle::evaluate(function, x + i, part, value + i, condition + i);
  }
  return nullptr;
} catch (const std::exception& error) {
  return opau::message(error.what());
}

}  // extern "C"
