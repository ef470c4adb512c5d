// differentiate BASIS FORM K L GROUPS DTYPE INSTRUCTION_SET OUTER CHANNELS INNER COEFFICIENTS X G OUTPUT: the backward pass, for tests
// that run the kernels of another processor in an emulator. COEFFICIENTS holds numerators, then denominators, GROUPS rows of each;
// OUTPUT gets dx, then the gradients of both. The kernels of the forward pass are not linked: there are none in these tables.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "opau/training.hpp"

using namespace opau;

namespace {

bool always() { return true; }
// In the order of cpu/activation.cpp, as training.cpp expects them.
const InstructionSet kSets[] = {{"scalar", always, {}, {}, {}, {}}, {"neon", always, {}, {}, {}, {}}};

struct Alone final : Parallel {
  void run(int64_t count, ParallelBody body, void* context) const override { body(0, count, context); }
};

std::vector<char> bytes(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

template <class T>
std::string run(const Config& config, Dtype dtype, const InstructionSet& set, const Extent& extent, char** paths) {
  const auto values = bytes(paths[0]), x = bytes(paths[1]), g = bytes(paths[2]);
  const int64_t top = config.groups * numerator_size(config), below = config.groups * denominator_size(config);
  const T* c = reinterpret_cast<const T*>(values.data());
  std::vector<char> dx(x.size());
  std::vector<T> sums(size_t(top + below));
  const Gradients<T> to{dx.data(), sums.data(), sums.data() + top};
  std::string error = train_backward<T>(config, dtype, {c, config.groups, c + top, config.groups}, set, x.data(), g.data(), to, extent, Alone());
  std::ofstream out(paths[3], std::ios::binary);
  out.write(dx.data(), std::streamsize(dx.size()));
  out.write(reinterpret_cast<const char*>(sums.data()), std::streamsize(sums.size() * sizeof(T)));
  return error;
}

}  // namespace

namespace opau {

const std::vector<const InstructionSet*>& instruction_sets() {
  static const std::vector<const InstructionSet*> all{&kSets[0], &kSets[1]};
  return all;
}

template <class T>
std::unique_ptr<const Activation> Activation::make_unchecked(const Config&, Dtype, const Coefficients<T>&, const InstructionSet&) {
  std::abort();
}
template std::unique_ptr<const Activation> Activation::make_unchecked(const Config&, Dtype, const Coefficients<float>&, const InstructionSet&);
template std::unique_ptr<const Activation> Activation::make_unchecked(const Config&, Dtype, const Coefficients<double>&, const InstructionSet&);

}  // namespace opau

int main(int, char** argument) {
  Config config;
  std::string error = find_config(argument[1], argument[2], std::atoi(argument[3]), std::atoi(argument[4]), std::atoi(argument[5]), &config);
  const Dtype dtype = Dtype(std::atoi(argument[6]));
  const InstructionSet* chosen = nullptr;
  for (const InstructionSet* set : instruction_sets()) {
    if (set->name == std::string(argument[7])) chosen = set;
  }
  if (!chosen) error = "no such instruction set";
  const Extent extent{std::atoll(argument[8]), std::atoll(argument[9]), std::atoll(argument[10])};
  if (error.empty()) {
    error = dtype == Dtype::float64 ? run<double>(config, dtype, *chosen, extent, argument + 11)
                                    : run<float>(config, dtype, *chosen, extent, argument + 11);
  }
  if (!error.empty()) std::fprintf(stderr, "%s\n", error.c_str());
  return error.empty() ? 0 : 2;
}
