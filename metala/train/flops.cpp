#include "metala/train/flops.h"

#include <array>

#include "metala/model/checkpoint.h"

namespace metala {
namespace {

struct Peak {
  std::string_view part;  // of the name
  double tflops;
};

// The first that a name holds: the longer of two names that begin alike stands first.
constexpr auto peaks = std::to_array<Peak>({
    {"GB300", 2500},      {"GB200", 2500},     {"B300", 2250},      {"B200", 2250},
    {"B100", 1750},       {"GH200", 989.5},    {"H200 NVL", 835},   {"H200", 989.5},
    {"H100 PCIe", 756},   {"H100 NVL", 835},   {"H100", 989.5},     {"H800 PCIe", 756},
    {"H800", 989.5},      {"H20", 148},        {"A100", 312},       {"A800", 312},
    {"A30", 165},         {"A40", 149.7},      {"A10G", 70},        {"A10", 125},
    {"L40S", 362},        {"L40", 181},        {"L4", 121},         {"RTX 6000 Ada", 364},
    {"RTX A6000", 154.8}, {"RTX 5090", 209.5}, {"RTX 4090", 165.2}, {"RTX 3090", 71},
});

}  // namespace

double training_flops_per_token(const Config& c) {
  constexpr double chunk = 64;  // of metala_attention's fast forms
  double elements = 0;
  for (const auto& t : expected_tensors(c)) {
    const bool looked_up = !c.tie_word_embeddings && t.name == "model.embed_tokens.weight";
    if (t.shape.rank() == 2 && !looked_up) elements += static_cast<double>(t.shape.count());
  }
  const double state = 4 * static_cast<double>(c.key_width() * c.value_width() * c.heads);
  const double within = chunk * static_cast<double>(c.query_width + c.width);
  return 6 * elements + 3 * static_cast<double>(c.layers) * (state + within);
}

double peak_tflops(std::string_view gpu) {
  for (const auto& peak : peaks) {
    if (gpu.find(peak.part) != std::string_view::npos) return peak.tflops;
  }
  return 0;
}

}  // namespace metala
