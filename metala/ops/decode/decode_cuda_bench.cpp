// A layer of the 374M model's decoding step, and each of its kernels alone, for N sequences: 24
// layers one after the other, whose weights and states together are larger than any cache.
#ifdef METALA_CUDA

#include <algorithm>
#include <memory>

#include "metala/device/cuda/graph.h"
#include "metala/harness/gpu_benchmark.h"
#include "metala/harness/random_tensor.h"
#include "metala/ops/decode/decode_cuda.h"

namespace metala::decode::cuda {
namespace {

constexpr std::int64_t layers = 24;
constexpr std::int64_t width = 1024, heads = 8, key_width = 64, value_width = 128;
constexpr std::int64_t keys = heads * key_width, gate_width = 2816;

enum Kernels : unsigned {
  token_norm = 1,
  projections = 2,
  attention = 4,
  onto_from_o = 8,
  channel_norm = 16,
  gates = 32,
  onto_from_h = 64,
  all = 127
};

// The same random numbers again and again, N(0, deviation^2).
class Numbers {
 public:
  Numbers(Device gpu, double deviation)
      : numbers_(harness::random_normal({count}, DType::f32, 1, deviation).to(gpu)) {}
  Tensor as(Shape shape, DType type) const {
    const Tensor t = Tensor::uninitialized(shape, type, numbers_.device());
    const Tensor flat = t.reshape({t.count()});
    for (std::int64_t at = 0; at < t.count(); at += count) {
      const std::int64_t end = std::min(at + count, t.count());
      flat.rows(at, end).copy_from(numbers_.rows(0, end - at));
    }
    return t;
  }

 private:
  static constexpr std::int64_t count = 1 << 20;
  Tensor numbers_;
};

struct Layer {
  Tensor in, out, up, down;  // matrices; of in and up those that read the same rows
  Tensor taps, conv_inputs, state;
};

struct Step {
  Device gpu;
  std::int64_t sequences;
  std::vector<Layer> all_layers;
  Tensor x, y, o, h, normed, mixed, products, z_bias, aug;

  Step(Device device, std::int64_t n) : gpu(device), sequences(n) {
    const Numbers weights(gpu, 0.02);
    const Numbers numbers(gpu, 1);
    for (std::int64_t i = 0; i < layers; ++i) {
      all_layers.push_back({weights.as({2 * keys + 2 * width, width}, DType::bf16),
                            weights.as({width, width}, DType::bf16),
                            weights.as({2 * gate_width, width}, DType::bf16),
                            weights.as({width, gate_width}, DType::bf16),
                            numbers.as({width, 4}, DType::f32),
                            numbers.as({n, width, 4}, DType::f32),
                            numbers.as({n, heads, key_width, value_width}, DType::f32)});
    }
    x = numbers.as({n, width}, DType::f32);
    y = numbers.as({n, width}, DType::bf16);
    o = numbers.as({n, width}, DType::bf16);
    h = numbers.as({n, gate_width}, DType::bf16);
    normed = numbers.as({n, width}, DType::f32);
    mixed = numbers.as({n, 2 * keys + 2 * width}, DType::f32);
    products = numbers.as({n, 2 * gate_width}, DType::f32);
    z_bias = numbers.as({width}, DType::f32);
    aug = numbers.as({keys}, DType::f32);
  }

  // Enqueues some kernels of all layers; the bytes of weights and states that they touch.
  double enqueue(unsigned kernels) const {
    double bytes = 0;
    const auto count = [&](const Tensor& t, int times = 1) {
      bytes += times * static_cast<double>(t.bytes());
    };
    metala_attention::Options options;
    options.heads = heads;
    metala_attention::Inputs in;
    in.q = mixed.slice(1, 0, keys);
    in.u = mixed.slice(1, keys, 2 * keys);
    in.v = mixed.slice(1, 2 * keys, 2 * keys + width);
    in.z = mixed.slice(1, 2 * keys + width, 2 * keys + 2 * width);
    in.aug = aug;
    const bool on_the_way = sequences <= most_fused_rows;
    const Rows ready = {y, {}, {}, {}, {}};
    for (const Layer& layer : all_layers) {
      const Conv conv = {layer.taps, layer.conv_inputs};
      if (kernels & token_norm && !on_the_way) normalise({}, conv, x, y, normed);
      if (kernels & projections) {
        const Rows rows = on_the_way ? Rows{{}, x, {}, conv, normed} : ready;
        project(rows, std::array{layer.in}, mixed);
        count(layer.in);
      }
      if (kernels & attention) {
        in.before = layer.state;
        attention_step(options, in, z_bias, conv, normed, nullptr, o);
        count(layer.state, 2);
      }
      if (kernels & onto_from_o) {
        project_onto(o, layer.out, {}, x);
        count(layer.out);
      }
      if (kernels & channel_norm && !on_the_way) normalise({}, {}, x, y, {});
      if (kernels & gates) {
        const Rows rows = on_the_way ? Rows{{}, x, {}, {}, {}} : ready;
        const Gated gated = {glu::Activation::silu,
                             layer.up.rows(0, gate_width),
                             {},
                             layer.up.rows(gate_width, 2 * gate_width),
                             {}};
        project_gated(rows, gated, products, h);
        count(layer.up);
      }
      if (kernels & onto_from_h) {
        project_onto(h, layer.down, {}, x);
        count(layer.down);
      }
    }
    return bytes;
  }
};

void run(benchmark::State& state, unsigned kernels) {
  harness::on_gpu(state, [&](Device gpu) {
    static std::unique_ptr<Step> step;  // of the number of sequences of the case before
    if (step == nullptr || step->sequences != state.range(0)) {
      step.reset();
      step = std::make_unique<Step>(gpu, state.range(0));
    }
    const double bytes = step->enqueue(kernels);
    const metala::cuda::Graph graph(gpu, [&] { step->enqueue(kernels); });
    harness::time_on_gpu(state, gpu, bytes, [&] { graph.launch(); });
  });
}

const int registered = [] {
  const std::pair<const char*, unsigned> cases[] = {
      {"layers", all},
      {"token norm", token_norm},
      {"project", projections},
      {"attention_step", attention},
      {"project_onto from o", onto_from_o},
      {"channel norm", channel_norm},
      {"project_gated", gates},
      {"project_onto from h", onto_from_h},
      {"layers but norms", all & ~(token_norm | channel_norm)},
      {"layers but attention_step", all & ~attention},
  };
  for (const std::int64_t n : {1, 16, 64, 128, 256}) {
    for (const auto& [name, kernels] : cases) {
      const std::string whole = std::string("decode/gpu/") + name;
      benchmark::RegisterBenchmark(whole.c_str(), [k = kernels](benchmark::State& s) { run(s, k); })
          ->ArgName("N")
          ->Arg(n)
          ->UseManualTime()
          ->Unit(benchmark::kMicrosecond)
          ->MinTime(0.02);
    }
  }
  return 0;
}();

}  // namespace
}  // namespace metala::decode::cuda

#endif
