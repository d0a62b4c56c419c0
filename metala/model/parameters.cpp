#include "metala/model/parameters.h"

#include <cmath>
#include <vector>

#include "metala/base/random.h"
#include "metala/base/threads.h"
#include "metala/model/checkpoint.h"
#include "metala/model/stacks.h"

namespace metala {
namespace {

bool ends_with(const std::string& name, const char* end) {
  return name.ends_with(end);
}

bool feeds_residual(const std::string& name) {
  return ends_with(name, "out_proj.weight") || ends_with(name, "l3.weight");
}

double deviation(const Config& c, InitMethod how, const Tensor& matrix) {
  const auto d = static_cast<double>(c.width);
  const auto layers = static_cast<double>(c.layers);
  switch (how) {
    case InitMethod::small_init:
      return std::sqrt(2 / (5 * d));
    case InitMethod::wang_init:
      return 2 / (layers * std::sqrt(d));
    case InitMethod::scaled_normal:
      return c.init_std / std::sqrt(2 * layers);
    case InitMethod::single_residual_scaled_normal:
      return c.init_std / std::sqrt(layers);
    case InitMethod::xavier_normal:
    case InitMethod::xavier_uniform:
      return std::sqrt(2 / static_cast<double>(matrix.size(0) + matrix.size(1)));
    case InitMethod::orthogonal:
      return std::sqrt(2.0);
    case InitMethod::scaled_orthogonal:
      return std::sqrt(2 / layers);
    case InitMethod::normal:
      break;
  }
  return c.init_std;
}

// value(i) for every element, in the tensor's type.
template <class F>
void fill(const Tensor& t, F value) {
  parallel_ranges(t.count(), 4096, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const double x = value(static_cast<std::uint64_t>(i));
      if (t.dtype() == DType::f64) {
        t.data<double>()[i] = x;
      } else {
        t.data<float>()[i] = static_cast<float>(x);
      }
    }
  });
}

// `gain` times orthonormal rows or columns, whichever are fewer, from normal numbers by Gram and
// Schmidt, twice over, since once leaves what rounding lost. The sums do not depend on the number
// of threads: ranks that draw the same weights must get the same bits.
void fill_orthogonal(const Tensor& t, const Philox& random, double gain) {
  const bool by_rows = t.size(0) <= t.size(1);
  const std::int64_t count = by_rows ? t.size(0) : t.size(1);
  const std::int64_t length = by_rows ? t.size(1) : t.size(0);
  std::vector<double> vectors(static_cast<std::size_t>(count * length));
  const auto vector = [&](std::int64_t i) { return vectors.data() + i * length; };
  for (std::size_t i = 0; i < vectors.size(); ++i) vectors[i] = random.normal(i);
  const auto dot = [&](const double* a, const double* b) {
    double sums[8] = {};
    std::int64_t k = 0;
    for (; k + 8 <= length; k += 8) {
      for (int lane = 0; lane < 8; ++lane) sums[lane] += a[k + lane] * b[k + lane];
    }
    for (; k < length; ++k) sums[0] += a[k] * b[k];
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) +
           ((sums[4] + sums[5]) + (sums[6] + sums[7]));
  };
  for (int round = 0; round < 2; ++round) {
    for (std::int64_t i = 0; i < count; ++i) {
      double* own = vector(i);
      const double share = 1 / std::sqrt(dot(own, own));
      for (std::int64_t k = 0; k < length; ++k) own[k] *= share;
      parallel_ranges(count - i - 1, 8, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t j = i + 1 + begin; j < i + 1 + end; ++j) {
          double* other = vector(j);
          const double along = dot(own, other);
          for (std::int64_t k = 0; k < length; ++k) other[k] -= along * own[k];
        }
      });
    }
  }
  fill(t, [&](std::uint64_t i) {
    const auto row = static_cast<std::int64_t>(i) / t.size(1);
    const auto column = static_cast<std::int64_t>(i) % t.size(1);
    return gain * (by_rows ? vector(row)[column] : vector(column)[row]);
  });
}

void initialize(const Config& c, Initialization how, std::uint64_t seed, const std::string& name,
                const Tensor& t) {
  const Philox random(seed, hash_name(name));
  if (ends_with(name, "norm.weight")) {
    fill(t, [](std::uint64_t) { return 1.0; });
  } else if (ends_with(name, ".bias") || ends_with(name, "aug_balance") ||
             ends_with(name, "token_mixer.decay")) {
    t.fill_zero();
  } else if (ends_with(name, "conv1d.weight")) {
    const double bound = 1 / std::sqrt(static_cast<double>(c.short_conv_width));
    fill(t, [&](std::uint64_t i) { return bound * (2 * random.uniform(i) - 1); });
  } else {
    const InitMethod method = feeds_residual(name) ? how.outputs : how.matrices;
    const double sigma = deviation(c, method, t);
    if (method == InitMethod::orthogonal || method == InitMethod::scaled_orthogonal) {
      fill_orthogonal(t, random, sigma);
    } else if (method == InitMethod::xavier_uniform) {
      const double bound = std::sqrt(3.0) * sigma;
      fill(t, [&](std::uint64_t i) { return bound * (2 * random.uniform(i) - 1); });
    } else {
      fill(t, [&](std::uint64_t i) { return sigma * random.normal(i); });
    }
  }
}

}  // namespace

InitMethod init_method_named(const std::string& name) {
  if (name == "normal") return InitMethod::normal;
  if (name == "small_init") return InitMethod::small_init;
  if (name == "wang_init") return InitMethod::wang_init;
  if (name == "scaled_normal") return InitMethod::scaled_normal;
  if (name == "single_residual_scaled_normal") return InitMethod::single_residual_scaled_normal;
  if (name == "xavier_normal") return InitMethod::xavier_normal;
  if (name == "xavier_uniform") return InitMethod::xavier_uniform;
  if (name == "orthogonal") return InitMethod::orthogonal;
  if (name == "scaled_orthogonal") return InitMethod::scaled_orthogonal;
  fail(
      "initialization \"{}\" is not known; supported: normal, small_init, wang_init, "
      "scaled_normal, single_residual_scaled_normal, xavier_normal, xavier_uniform, orthogonal, "
      "scaled_orthogonal",
      name);
}

Initialization initialization_named(const std::string& name) {
  if (name == "normal") return {InitMethod::normal, InitMethod::normal};
  if (name == "small") return {InitMethod::small_init, InitMethod::wang_init};
  if (name == "scaled") return {InitMethod::normal, InitMethod::scaled_normal};
  fail("initialization \"{}\" is not known; supported: normal, small, scaled", name);
}

Parameters Parameters::initialized(const Config& config, Initialization how, std::uint64_t seed,
                                   DType type) {
  Parameters p;
  for (const auto& spec : expected_tensors(config)) {
    const Tensor t = Tensor::uninitialized(spec.shape, type);
    initialize(config, how, seed, spec.name, t);
    p.values_.emplace(spec.name, t);
  }
  return p;
}

std::int64_t Parameters::count() const {
  std::int64_t n = 0;
  for (const auto& [name, value] : values_) n += value.count();
  return n;
}

void Parameters::allocate_gradients() {
  for (const auto& [name, value] : values_) {
    gradients_.insert_or_assign(
        name, Tensor::zeros(value.shape(), accumulation_type(value.dtype()), value.device()));
  }
}

void Parameters::zero_gradients() const {
  for (const auto& [name, gradient] : gradients_) gradient.fill_zero();
}

Variable Parameters::variable(const std::string& name) const {
  const auto value = values_.find(name);
  require(value != values_.end(), "model: tensor {} is missing", name);
  const auto gradient = gradients_.find(name);
  if (gradient == gradients_.end()) return Variable::constant(value->second);
  return Variable::leaf(value->second, gradient->second);
}

Parameters Parameters::cast(DType type) const {
  Parameters p;
  for (const auto& [name, value] : values_) p.values_.emplace(name, value.cast(type));
  return p;
}

Parameters Parameters::on(Device device, DType type) const {
  Parameters p;
  const auto fitting = [&](const std::string& name) {
    const Tensor& value = values_.at(name);
    const DType wanted = value.rank() == 2 ? type : DType::f32;
    return value.dtype() == wanted ? value : value.cast(wanted);
  };
  for (const auto& [name, value] : values_) {
    if (p.values_.contains(name)) continue;
    const auto neighbours =
        value.device() == device ? std::vector<std::string>() : stack_of(name, type);
    if (neighbours.empty()) {
      p.values_.emplace(name, fitting(name).to(device));
      continue;
    }
    std::int64_t rows = 0;
    for (const auto& each : neighbours) rows += values_.at(each).size(0);
    const Tensor stack = Tensor::uninitialized({rows, value.size(1)}, type, device);
    rows = 0;
    for (const auto& each : neighbours) {
      const Tensor matrix = fitting(each);
      const Tensor place = stack.rows(rows, rows + matrix.size(0));
      place.copy_from(matrix);
      p.values_.emplace(each, place);
      rows += matrix.size(0);
    }
  }
  return p;
}

// Empty for a matrix that lies alone.
std::vector<std::string> Parameters::stack_of(const std::string& name, DType type) const {
  const auto stack = metala::stack_of(name, values_);
  for (const auto& each : stack) {
    // Each must start as memory of its own would.
    const auto count = static_cast<std::size_t>(values_.at(each).count());
    if (bytes_of(type, count) % 256 != 0) return {};
  }
  return stack.size() > 1 ? stack : std::vector<std::string>();
}

}  // namespace metala
