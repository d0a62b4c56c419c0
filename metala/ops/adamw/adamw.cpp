#include "metala/ops/adamw/adamw.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "metala/base/half.h"
#include "metala/base/threads.h"
#include "metala/ops/adamw/adamw_cuda.h"

namespace metala::adamw {
namespace {

// Elements a task owns. Fixed, so that sums do not depend on the number of threads.
constexpr std::int64_t block = 16384;

void check(const Slot& slot) {
  const auto what = [&](const char* argument) { return "adamw: " + slot.name + " " + argument; };
  require(slot.parameter.defined() &&
              (slot.parameter.dtype() == DType::f32 || slot.parameter.dtype() == DType::f64),
          "{} must be f32 or f64", what("parameter"));
  const Shape& shape = slot.parameter.shape();
  const DType type = slot.parameter.dtype();
  check_tensor(what("gradient"), slot.gradient, shape, type);
  check_tensor(what("first_moment"), slot.first_moment, shape, type);
  check_tensor(what("second_moment"), slot.second_moment, shape, type);
  for (const Tensor* t :
       {&slot.parameter, &slot.gradient, &slot.first_moment, &slot.second_moment}) {
    require(t->contiguous(), "{} must be contiguous", what("tensors"));
  }
  if (slot.working.defined()) {
    require(is_half(slot.working.dtype()), "{} is {}; wanted bf16 or f16", what("working"),
            name_of(slot.working.dtype()));
    check_tensor(what("working"), slot.working, shape, slot.working.dtype());
  }
  require(!slot.working.defined() || (slot.working.device().is_cuda() && slot.working.contiguous()),
          "{} must be contiguous, on a GPU", what("working"));
}

// One block of one slot. Plain enough for the compiler's vectors; bound by memory: 16 bytes read
// and 12 written for each f32 element.
template <class T>
void update_block(const Options& o, const Slot& slot, double gradient_scale, std::int64_t begin,
                  std::int64_t end) {
  T* p = slot.parameter.data<T>();
  const T* g = slot.gradient.data<T>();
  T* m = slot.first_moment.data<T>();
  T* v = slot.second_moment.data<T>();
  const auto b1 = static_cast<T>(o.beta1);
  const auto b2 = static_cast<T>(o.beta2);
  const auto rest1 = static_cast<T>(1 - o.beta1);
  const auto rest2 = static_cast<T>(1 - o.beta2);
  const auto step = static_cast<double>(o.step);
  const auto correct1 = static_cast<T>(1 / (1 - std::pow(o.beta1, step)));
  const auto correct2 = static_cast<T>(1 / (1 - std::pow(o.beta2, step)));
  const auto epsilon = static_cast<T>(o.epsilon);
  const auto rate = static_cast<T>(o.learning_rate);
  const auto decay = static_cast<T>(slot.decays ? o.weight_decay : 0);
  const auto scale = static_cast<T>(gradient_scale);
  for (std::int64_t i = begin; i < end; ++i) {
    const T gradient = scale * g[i];
    m[i] = b1 * m[i] + rest1 * gradient;
    v[i] = b2 * v[i] + rest2 * gradient * gradient;
    const T direction = m[i] * correct1 / (std::sqrt(v[i] * correct2) + epsilon);
    p[i] -= rate * (direction + decay * p[i]);
  }
}

template <class T>
double squares_of_block(const Tensor& t, std::int64_t begin, std::int64_t end) {
  const T* x = t.data<T>();
  double sum = 0;
  for (std::int64_t i = begin; i < end; ++i) {
    const auto value = static_cast<double>(x[i]);
    sum += value * value;
  }
  return sum;
}

struct Block {
  std::size_t tensor;
  std::int64_t begin, end;
};

// All tensors cut into blocks, so that many small ones and a few large ones share threads alike.
template <class Count>
std::vector<Block> blocks_of(std::size_t tensors, Count count) {
  std::vector<Block> all;
  for (std::size_t i = 0; i < tensors; ++i) {
    for (std::int64_t at = 0; at < count(i); at += block) {
      all.push_back({i, at, std::min(at + block, count(i))});
    }
  }
  return all;
}

void check_norm(const Tensor& norm) {
  check_tensor("adamw: norm", norm, {1}, DType::f64);
}

void check_gradients(std::span<const Tensor> tensors) {
  for (const auto& t : tensors) {
    require(t.defined() && t.contiguous() && (t.dtype() == DType::f32 || t.dtype() == DType::f64),
            "adamw: the norm is of contiguous f32 or f64 tensors");
  }
}

}  // namespace

void update(const Options& options, std::span<const Slot> slots, const Tensor& norm) {
  require(options.step >= 1, "adamw: step {}; steps count from 1", options.step);
  for (const auto& slot : slots) check(slot);
  check_norm(norm);
  if constexpr (cuda_built) {
    if (norm.device().is_cuda()) return cuda::update(options, slots, norm);
  }
  const double total = options.gradient_scale * norm.data<double>()[0];
  if (!std::isfinite(total)) return;
  const double gradient_scale =
      options.clip > 0 ? options.gradient_scale / std::max(1.0, (total + 1e-6) / options.clip)
                       : options.gradient_scale;
  const auto blocks =
      blocks_of(slots.size(), [&](std::size_t i) { return slots[i].parameter.count(); });
  parallel_ranges(static_cast<std::int64_t>(blocks.size()), 1,
                  [&](std::int64_t begin, std::int64_t end) {
                    for (std::int64_t i = begin; i < end; ++i) {
                      const Block& b = blocks[static_cast<std::size_t>(i)];
                      const Slot& slot = slots[b.tensor];
                      if (slot.parameter.dtype() == DType::f64) {
                        update_block<double>(options, slot, gradient_scale, b.begin, b.end);
                      } else {
                        update_block<float>(options, slot, gradient_scale, b.begin, b.end);
                      }
                    }
                  });
}

void sum_of_squares(std::span<const Tensor> tensors, Tensor sum) {
  check_norm(sum);
  check_gradients(tensors);
  if constexpr (cuda_built) {
    if (sum.device().is_cuda()) return cuda::sum_of_squares(tensors, sum);
  }
  const auto blocks = blocks_of(tensors.size(), [&](std::size_t i) { return tensors[i].count(); });
  std::vector<double> sums(blocks.size());
  parallel_ranges(static_cast<std::int64_t>(blocks.size()), 1,
                  [&](std::int64_t begin, std::int64_t end) {
                    for (std::int64_t i = begin; i < end; ++i) {
                      const auto at = static_cast<std::size_t>(i);
                      const Tensor& t = tensors[blocks[at].tensor];
                      sums[at] = t.dtype() == DType::f64
                                     ? squares_of_block<double>(t, blocks[at].begin, blocks[at].end)
                                     : squares_of_block<float>(t, blocks[at].begin, blocks[at].end);
                    }
                  });
  double total = 0;
  for (const double s : sums) total += s;
  sum.data<double>()[0] = total;
}

void square_root(Tensor sum) {
  check_norm(sum);
  if constexpr (cuda_built) {
    if (sum.device().is_cuda()) return cuda::square_root(sum);
  }
  sum.data<double>()[0] = std::sqrt(sum.data<double>()[0]);
}

void join_finiteness(const Tensor& value, Tensor sum) {
  check_norm(value);
  check_norm(sum);
  if constexpr (cuda_built) {
    if (sum.device().is_cuda()) return cuda::join_finiteness(value, sum);
  }
  if (!std::isfinite(value.data<double>()[0])) {
    sum.data<double>()[0] = std::numeric_limits<double>::quiet_NaN();
  }
}

void global_norm(std::span<const Tensor> tensors, Tensor norm) {
  sum_of_squares(tensors, norm);
  square_root(norm);
}

double global_norm(std::span<const Tensor> tensors) {
  const Device device = tensors.empty() ? Device() : tensors.front().device();
  const Tensor norm = Tensor::zeros({1}, DType::f64, device);
  global_norm(tensors, norm);
  return norm.to({}).data<double>()[0];
}

}  // namespace metala::adamw
