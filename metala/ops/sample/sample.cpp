#include "metala/ops/sample/sample.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "metala/base/error.h"
#include "metala/base/random.h"

namespace metala::sample {
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

void check_logits(std::span<const float> logits) {
  float most = minus_infinity;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    require(!std::isnan(logits[i]), "sample: the logit of id {} is NaN", i);
    most = std::max(most, logits[i]);
  }
  require(std::isfinite(most), "sample: no id has a finite logit");
}

std::int32_t first_largest(std::span<const float> logits) {
  return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// Logits after bias and repetition penalty.
std::vector<float> adjusted(const Options& o, std::span<const float> logits,
                            std::span<const std::int32_t> recent) {
  std::vector<float> out(logits.begin(), logits.end());
  for (const auto& [id, bias] : o.logit_bias) {
    require(id >= 0 && static_cast<std::size_t>(id) < out.size(),
            "sample: logit_bias names id {}; the vocabulary has {}", id, out.size());
    out[static_cast<std::size_t>(id)] += bias;
  }
  if (o.repetition_penalty == 1) return out;
  const auto penalty = static_cast<float>(o.repetition_penalty);
  const std::set<std::int32_t> distinct(recent.begin(), recent.end());
  for (const auto id : distinct) {
    if (id < 0 || static_cast<std::size_t>(id) >= out.size()) continue;
    float& z = out[static_cast<std::size_t>(id)];
    z = z > 0 ? z / penalty : z * penalty;
  }
  return out;
}

// What may be drawn, in the order of ids.
struct Candidates {
  std::vector<std::int32_t> ids;
  std::vector<double> weights;  // probability relative to the best's
  double total = 0;
};

// All ids, or the k best of them.
Candidates candidates(const Options& o, const std::vector<float>& logits) {
  Candidates c;
  c.ids.resize(logits.size());
  std::iota(c.ids.begin(), c.ids.end(), 0);
  const auto better = [&](std::int32_t a, std::int32_t b) {
    const float za = logits[static_cast<std::size_t>(a)];
    const float zb = logits[static_cast<std::size_t>(b)];
    return za != zb ? za > zb : a < b;
  };
  const float best = *std::max_element(logits.begin(), logits.end());
  const double temperature = o.temperature;
  const auto weight = [&](std::int32_t id) {
    return std::exp(static_cast<double>(logits[static_cast<std::size_t>(id)] - best) / temperature);
  };
  if (o.top_k > 0 && static_cast<std::size_t>(o.top_k) < c.ids.size()) {
    std::nth_element(c.ids.begin(), c.ids.begin() + o.top_k, c.ids.end(), better);
    c.ids.resize(static_cast<std::size_t>(o.top_k));
    std::sort(c.ids.begin(), c.ids.end());
  }
  for (const auto id : c.ids) {
    c.weights.push_back(weight(id));
    c.total += c.weights.back();
  }
  return c;
}

// Keeps the most probable candidates whose probability reaches p. Sorts only a prefix: ever larger
// heaps of the best are taken until they hold enough.
void cut_top_p(double p, Candidates& c) {
  if (p >= 1 || c.ids.size() <= 1) return;
  std::vector<std::size_t> order(c.ids.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto better = [&](std::size_t a, std::size_t b) {
    return c.weights[a] != c.weights[b] ? c.weights[a] > c.weights[b] : c.ids[a] < c.ids[b];
  };
  const double enough = p * c.total;
  double sum = 0;
  std::size_t kept = 0;
  for (std::size_t sorted = 0; sum < enough && sorted < order.size();) {
    const std::size_t until = std::min(order.size(), std::max<std::size_t>(64, 4 * sorted));
    std::partial_sort(order.begin() + static_cast<std::ptrdiff_t>(sorted),
                      order.begin() + static_cast<std::ptrdiff_t>(until), order.end(), better);
    for (sorted = until; kept < sorted && sum < enough; ++kept) sum += c.weights[order[kept]];
  }
  kept = std::max<std::size_t>(kept, 1);
  std::sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(kept));
  Candidates cut;
  for (std::size_t i = 0; i < kept; ++i) {
    cut.ids.push_back(c.ids[order[i]]);
    cut.weights.push_back(c.weights[order[i]]);
    cut.total += cut.weights.back();
  }
  c = std::move(cut);
}

// Drops what is less than p times as probable as the best, whose weight is 1.
void cut_min_p(double p, Candidates& c) {
  if (p <= 0) return;
  Candidates kept;
  for (std::size_t i = 0; i < c.ids.size(); ++i) {
    if (c.weights[i] < p) continue;
    kept.ids.push_back(c.ids[i]);
    kept.weights.push_back(c.weights[i]);
    kept.total += c.weights[i];
  }
  c = std::move(kept);
}

}  // namespace

void check(const Options& o) {
  require(o.temperature >= 0 && std::isfinite(o.temperature),
          "sample: temperature is {}; wanted 0 or more", o.temperature);
  require(o.top_k >= 0, "sample: top_k is {}; wanted 0 (all) or more", o.top_k);
  require(o.top_p > 0 && o.top_p <= 1, "sample: top_p is {}; wanted more than 0, at most 1",
          o.top_p);
  require(o.min_p >= 0 && o.min_p <= 1, "sample: min_p is {}; wanted 0 to 1", o.min_p);
  require(o.repetition_penalty > 0 && std::isfinite(o.repetition_penalty),
          "sample: repetition_penalty is {}; wanted more than 0", o.repetition_penalty);
}

std::int32_t next(const Options& options, std::span<const float> given,
                  std::span<const std::int32_t> recent, Draw draw) {
  check(options);
  check_logits(given);
  const std::vector<float> logits = adjusted(options, given, recent);
  check_logits(logits);
  if (options.temperature == 0 || options.top_k == 1) return first_largest(logits);
  Candidates c = candidates(options, logits);
  cut_top_p(options.top_p, c);
  cut_min_p(options.min_p, c);
  double left = Philox(options.seed, draw.stream).uniform(draw.position) * c.total;
  std::int32_t chosen = c.ids.front();
  for (std::size_t i = 0; i < c.ids.size(); ++i) {
    if (c.weights[i] == 0) continue;
    chosen = c.ids[i];  // the last possible one, should rounding carry the walk past all
    left -= c.weights[i];
    if (left < 0) break;
  }
  return chosen;
}

double log_probability(std::span<const float> logits, std::int32_t id) {
  require(id >= 0 && static_cast<std::size_t>(id) < logits.size(),
          "sample: id {}; the vocabulary has {}", id, logits.size());
  const float best = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float z : logits) sum += std::exp(static_cast<double>(z - best));
  return static_cast<double>(logits[static_cast<std::size_t>(id)] - best) - std::log(sum);
}

std::vector<std::pair<std::int32_t, double>> top(std::span<const float> logits,
                                                 std::int32_t count) {
  std::vector<std::int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto n = std::min(static_cast<std::size_t>(std::max(count, 0)), ids.size());
  std::partial_sort(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(n), ids.end(),
                    [&](std::int32_t a, std::int32_t b) {
                      const float za = logits[static_cast<std::size_t>(a)];
                      const float zb = logits[static_cast<std::size_t>(b)];
                      return za != zb ? za > zb : a < b;
                    });
  std::vector<std::pair<std::int32_t, double>> best;
  for (std::size_t i = 0; i < n; ++i) {
    best.emplace_back(ids[i], log_probability(logits, ids[i]));
  }
  return best;
}

}  // namespace metala::sample
