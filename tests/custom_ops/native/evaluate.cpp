// evaluate BASIS FORM K L DTYPE INSTRUCTION_SET COEFFICIENTS INPUT OUTPUT: one activation on a file of elements, for tests that run
// the kernels of another processor in an emulator. COEFFICIENTS holds numerator, then denominator.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "opau/activation.hpp"

using namespace opau;

static std::vector<char> bytes(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

template <class T>
static std::unique_ptr<const Activation> make(const Config& config, Dtype dtype, const std::vector<char>& values,
                                              const InstructionSet& set, std::string* error) {
  const T* c = reinterpret_cast<const T*>(values.data());
  return Activation::make<T>(config, dtype, {c, 1, c + numerator_size(config), 1}, error, set);
}

int main(int, char** argument) {
  Config config;
  std::string error = find_config(argument[1], argument[2], std::atoi(argument[3]), std::atoi(argument[4]), 1, &config);
  const Dtype dtype = Dtype(std::atoi(argument[5]));
  const InstructionSet* chosen = nullptr;
  for (const InstructionSet* set : instruction_sets()) {
    if (set->name == std::string(argument[6])) chosen = set;
  }
  if (!chosen) error = "no such instruction set";
  const auto values = bytes(argument[7]), x = bytes(argument[8]);
  std::unique_ptr<const Activation> activation;
  if (error.empty()) {
    activation = dtype == Dtype::float64 ? make<double>(config, dtype, values, *chosen, &error)
                                         : make<float>(config, dtype, values, *chosen, &error);
  }
  if (!error.empty()) {
    std::fprintf(stderr, "%s\n", error.c_str());
    return 2;
  }
  std::vector<char> y(x.size());
  const int64_t count = int64_t(x.size()) / element_size(dtype);
  activation->run(x.data(), y.data(), {1, 1, count}, 0, count, false);
  std::ofstream(argument[9], std::ios::binary).write(y.data(), std::streamsize(y.size()));
  return 0;
}
