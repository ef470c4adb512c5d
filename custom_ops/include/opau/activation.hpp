// An activation with its coefficients, ready to run on this machine's CPU.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "opau/kernels.hpp"
#include "opau/prepare.hpp"

namespace opau {

// Compiled into this library, slowest first; some may not be available() here.
const std::vector<const InstructionSet*>& instruction_sets();
// The fastest that is available.
const InstructionSet& best_instruction_set();

// Immutable after make(), so any number of threads may run it at once.
class Activation {
 public:
  virtual ~Activation() = default;

  // As make(), for coefficients that come out of training and serve once: those that are not finite give NaN.
  template <class T>
  static std::unique_ptr<const Activation> make_unchecked(const Config&, Dtype, const Coefficients<T>&, const InstructionSet&);

  // T is double for Dtype::float64, else float. Returns null and sets `error` for bad coefficients.
  template <class T>
  static std::unique_ptr<const Activation> make(const Config&, Dtype, const Coefficients<T>&, std::string* error,
                                                const InstructionSet& = best_instruction_set());

  // y[begin, end) from x[begin, end), both pointing at element 0 of tensors of this extent. x == y is allowed.
  // stream: write past the cache; pays where x and y do not fit in it.
  virtual void run(const void* x, void* y, const Extent&, int64_t begin, int64_t end, bool stream) const = 0;

  const Plan& plan() const { return plan_; }
  Dtype dtype() const { return dtype_; }

 protected:
  Activation(const Plan& plan, Dtype dtype) : plan_(plan), dtype_(dtype) {}

 private:
  Plan plan_;
  Dtype dtype_;
};

inline int64_t element_size(Dtype dtype) {
  return dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2;
}

}  // namespace opau
