#include "opau/certify.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "certify/format.hpp"
#include "certify/oracle.hpp"
#include "certify/variants.hpp"
#include "opau/activation.hpp"

namespace opau {
namespace {

using namespace certify;

struct Job {
  oracle::Function reference;
  Format format;
  bool bounded;        // Q has a lower bound
  double limit, far;   // of the condition number; X0
  uint64_t first, last, stride, blocks;
  // By instruction set, the last of which is the fastest.
  std::vector<std::unique_ptr<const Activation>> kernels;
  std::vector<std::vector<Variant>> variants;
  std::vector<bool> repeated;  // one whose source runs a second time, faster
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

// Largest error: what the oracle's bound, to first order, and a result's own rounding allow. Not where rounding could change Q by half.
double allowed(const Job& job, const oracle::Values& at, int i) {
  const double wrong = at.bottom[i] * 0x1p-24, size = std::fabs(at.value[i]);
  const double computed = at.bound[i] * 0x1p-24 / (1 - wrong) + (1 + at.underflow[i]) * 0x1p-149;
  const double stored = job.format.bytes == 4 ? 0 : ulp(size + computed, job.format) / 2;
  return computed * (1 + 0x1p-20) + stored;
}

// One result against the oracle.
void judge(const Job& job, uint64_t pattern, double x, double y, const oracle::Values& at, int i, opau_certificate& into) {
  ++into.inputs;
  const double value = at.value[i], condition = at.condition[i];
  if (std::isnan(x) || std::isinf(x)) {
    const bool right = std::isnan(x) ? std::isnan(y)
                       : std::fabs(value) > job.format.largest ? std::isinf(y) && (y > 0) == (value > 0)
                                                               : std::fabs(y - value) <= 16 * ulp(value, job.format);
    if (!right && (std::isnan(x) || !job.bounded)) count(into.violations, into.first_violation, pattern);
    return;
  }
  // Nothing is promised next to a pole, and of a clamped Q far out.
  if (!(at.bottom[i] * 0x1p-24 < 0.5) || (at.clamped[i] && std::fabs(x) > job.far)) {
    ++into.unjudged;
    return;
  }
  const double limit = allowed(job, at, i);
  if (std::fabs(value) + limit > job.format.largest * (1 - 0x1p-6)) {  // at the border either the largest number or infinity is right
    const double least = std::fabs(value) - limit;
    const bool sure = least > 0, far_enough = !std::isfinite(y) || std::fabs(y) >= std::min(least, job.format.largest) * (1 - 0x1p-5);
    if (std::isnan(y) || (sure && (!far_enough || (y > 0) != (value > 0)))) count(into.violations, into.first_violation, pattern);
    return;
  }
  if (!std::isfinite(y)) {
    count(into.violations, into.first_violation, pattern);
    return;
  }
  ++into.judged;
  const double error = std::fabs(y - value), last = ulp(value, job.format);
  const opau_worst found{pattern, y, value, condition, error / last};
  keep(into.any, found);
  if (condition < job.limit && limit <= 32 * last) keep(into.conditioned, found);
  keep(into.bounded, {pattern, y, value, condition, error / limit});
  if (error > limit) count(into.beyond, into.first_beyond, pattern);
}

constexpr size_t kMostSets = 8;

struct alignas(64) Block {
  unsigned char in[kBefores][4 * oracle::kBlock], row[kBefores][4 * oracle::kBlock], out[kMostSets][4 * oracle::kBlock];
  uint64_t pattern[oracle::kBlock];
  double x[oracle::kBlock];
  oracle::Values exact;
};
static_assert(kInputs == oracle::kBlock);

// Inputs as the affines of the variants make them: negated, and, in float32, scaled and shifted.
void prepare(const Job& job, Block& b, int n) {
  const uint32_t sign = 1u << (8 * job.format.bytes - 1);
  for (int i = 0; i < n; ++i) {
    const uint32_t mirrored = element(b.in[kPlain], i, job.format) ^ sign;
    put(b.in[kMirrored], i, mirrored, job.format);
    if (job.format.bytes != 4) continue;
    const float shifted = std::fma(float(b.x[i]), kScale, kShift);
    std::memcpy(b.in[kShifted] + i * 4, &shifted, 4);
  }
}

// What a result becomes: that of one row, negated where the variant negates the numerator.
uint32_t expected(const Variant& v, const Block& b, int i, const Format& f) { return element(b.row[v.before[i]], i, f) ^ v.flip[i]; }

// Whether results have the expected bits, and everything beside them is as it was. Without a branch for each: few blocks say no.
bool as_expected(const Variant& v, const Block& b, int begin, int end, const Format& f) {
  const uint32_t fill = f.bytes == 4 ? 0x5a5a5a5au : 0x5a5au;
  uint32_t wrong = 0;
  for (int i = 0; i < begin; ++i) wrong |= element(b.out[0], i, f) ^ fill;
  for (int i = begin; i < end; ++i) wrong |= element(b.out[0], i, f) ^ expected(v, b, i, f);
  for (int i = end; i < oracle::kBlock; ++i) wrong |= element(b.out[0], i, f) ^ fill;
  return wrong == 0;
}

void compare_variants(const Job& job, size_t set, uint64_t index, Block& b, int n, opau_certificate& into) {
  const int size = job.format.bytes;
  const uint32_t sign = 1u << (8 * size - 1);
  for (int k = 0; k < (size == 4 ? kBefores : kShifted); ++k) {
    job.kernels[set]->run(b.in[k], b.row[k], {1, 1, n}, 0, n, false);
  }
  for (const Variant& v : job.variants[set]) {
    // Ends move, so that vectors, tiles and periods are met at every offset; nothing may be written beyond them.
    const int begin = std::min(n, int(index % 19)), end = std::max(begin, n - int(index % 7));
    unsigned char* out = b.out[0];
    std::memset(out, 0x5a, sizeof(b.out[0]));
    if (v.in_place) std::memcpy(out + begin * size, b.in[0] + begin * size, size_t((end - begin) * size));
    v.activation->run(v.in_place ? out : b.in[0], out, v.extent, begin, end, v.stream);
    opau_variant& to = into.variants[v.name];
    to.compared += uint64_t(end - begin);
    if (as_expected(v, b, begin, end, job.format)) continue;
    for (int i = 0; i < oracle::kBlock; ++i) {
      const uint32_t bits = element(out, i, job.format);
      bool right = bits == (0x5a5a5a5au & (sign | (sign - 1)));
      if (i >= begin && i < end) {
        const uint32_t wanted = expected(v, b, i, job.format);
        // A sum that is zero is +0 whatever the signs of its terms.
        right = same(bits, wanted, job.format) || (v.flip[i] && (bits | sign) == sign && (wanted | sign) == sign);
      }
      if (!right) count(to.differences, to.first_difference, b.pattern[std::min(i, n - 1)]);
    }
  }
}

// Slower instruction sets go through the variants for one block in so many; those that run a second time, through everything.
constexpr uint64_t kSeldom = 16, kRarely = 64;
// What a sample must not miss: zeros, infinities, NaN, the largest and the smallest number.
constexpr uint64_t kSpecial[] = {0, 1, 0x7f7fffff, 0x7f800000, 0x7fc00000, 0x80000000, 0xff7fffff, 0xff800000};

bool sampled(const Job& job) { return job.stride > 1 && job.format.bytes == 4; }

void one_block(Job& job, uint64_t index, Block& b, opau_certificate& into) {
  int n = 0;
  const bool special = sampled(job) && index == job.blocks;
  if (special) {
    for (; n < int(std::size(kSpecial)); ++n) b.pattern[n] = kSpecial[n];
  }
  for (uint64_t p = job.first + index * oracle::kBlock * job.stride; !special && n < oracle::kBlock && p < job.last; p += job.stride, ++n) {
    b.pattern[n] = p;
  }
  for (int i = 0; i < n; ++i) {
    const uint32_t bits = uint32_t(b.pattern[i]);
    put(b.in[0], i, bits, job.format);
    b.x[i] = number(bits, job.format);
  }
  oracle::evaluate(job.reference, b.x, n, &b.exact);
  const size_t last = job.kernels.size() - 1;
  std::array<bool, kMostSets> tried{};
  for (size_t s = 0; s <= last; ++s) {
    tried[s] = !job.repeated[s] || index % kRarely == 0 || special || job.format.bytes == 2;
    if (tried[s]) job.kernels[s]->run(b.in[0], b.out[s], {1, 1, n}, 0, n, false);
  }
  for (int i = 0; i < n; ++i) {
    const uint32_t bits = element(b.out[last], i, job.format);
    judge(job, b.pattern[i], b.x[i], number(bits, job.format), b.exact, i, into);
    for (size_t s = 0; s < last; ++s) {
      if (tried[s] && !same(element(b.out[s], i, job.format), bits, job.format)) {
        count(into.differences, into.first_difference, b.pattern[i]);
        break;
      }
    }
  }
  prepare(job, b, n);
  for (size_t s = 0; s <= last; ++s) {
    if (s == last || (index % kSeldom == 0 && tried[s])) compare_variants(job, s, index, b, n, into);
  }
  __atomic_fetch_add(job.done, int64_t(n), __ATOMIC_RELAXED);
}

void merge(uint64_t& total, uint64_t& first, uint64_t more, uint64_t more_first) {
  if (more && (!total || more_first < first)) first = more_first;
  total += more;
}

void merge(opau_certificate& into, const opau_certificate& part) {
  into.inputs += part.inputs;
  into.judged += part.judged;
  into.unjudged += part.unjudged;
  keep(into.any, part.any);
  keep(into.conditioned, part.conditioned);
  keep(into.bounded, part.bounded);
  merge(into.beyond, into.first_beyond, part.beyond, part.first_beyond);
  merge(into.violations, into.first_violation, part.violations, part.first_violation);
  merge(into.differences, into.first_difference, part.differences, part.first_difference);
  for (int v = 0; v < OPAU_VARIANTS; ++v) {
    opau_variant& to = into.variants[v];
    to.compared += part.variants[v].compared;
    merge(to.differences, to.first_difference, part.variants[v].differences, part.variants[v].first_difference);
  }
}

void work(Job& job) {
  constexpr uint64_t kTake = 64;  // blocks at a time
  const uint64_t blocks = job.blocks + sampled(job);
  const auto block = std::make_unique<Block>();
  opau_certificate found{};
  found.any.ulp = found.conditioned.ulp = found.bounded.ulp = -1;
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
    job->repeated.push_back(set->again && set->again->available());
    job->variants.emplace_back();
    error = make_variants(config, dtype, numerator, denominator, dtype == Dtype::float32, *set, &job->variants.back());
    if (!error.empty()) return error;
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
  job.bounded = tables::kForms[config.form].bounded;
  job.far = tables::kForms[config.form].limit[std::max(config.k, config.l)];
  job.limit = condition_limit;
  job.first = first;
  job.last = last;
  job.stride = stride;
  job.blocks = ((last - first + stride - 1) / stride + oracle::kBlock - 1) / oracle::kBlock;
  job.done = done;
  job.cancel = cancel;
  job.out = out;
  *out = {};
  out->any.ulp = out->conditioned.ulp = out->bounded.ulp = -1;
  if (auto error = make_kernels(config, Dtype(dtype), numerator, denominator, &job); !error.empty()) return message(error);
  run(job, threads);
  return cancelled(job) ? "cancelled" : nullptr;
} catch (const std::exception& error) {
  return opau::message(error.what());
}

const char* opau_certify_variant(int index) { return index >= 0 && index < OPAU_VARIANTS ? opau::kVariantNames[index] : nullptr; }

static_assert(opau::kVariants == OPAU_VARIANTS);

const char* opau_oracle(const char* basis, const char* form, int64_t k, int64_t l, const double* numerator,
                        const double* denominator, const double* x, int64_t n, double* value, double* condition, double* bound,
                        double* underflow) try {
  using namespace opau;
  Config config;
  if (auto error = find_config(basis, form, k, l, 1, &config); !error.empty()) return message(error);
  const oracle::Function function{config.basis, config.form, config.k, config.l, numerator, denominator};
  const auto found = std::make_unique<oracle::Values>();
  for (int64_t i = 0; i < n; i += oracle::kBlock) {
    const int part = int(n - i < oracle::kBlock ? n - i : oracle::kBlock);
    oracle::evaluate(function, x + i, part, found.get());
    std::copy_n(found->value, part, value + i);
    std::copy_n(found->condition, part, condition + i);
    std::copy_n(found->bound, part, bound + i);
    std::copy_n(found->underflow, part, underflow + i);
  }
  return nullptr;
} catch (const std::exception& error) {
  return opau::message(error.what());
}

}  // extern "C"
