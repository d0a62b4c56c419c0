#include "metala/data/splits.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include "metala/base/error.h"

namespace metala {
namespace {

std::vector<double> parsed_weights(std::string split) {
  std::replace(split.begin(), split.end(), '/', ',');
  std::vector<double> weights;
  for (std::size_t at = 0; at <= split.size();) {
    const std::size_t end = std::min(split.find(',', at), split.size());
    const std::string part = split.substr(at, end - at);
    double weight = NAN;
    try {
      std::size_t used = 0;
      weight = std::stod(part, &used);
      if (part.find_first_not_of(" \t", used) != std::string::npos) weight = NAN;
    } catch (const std::logic_error&) {
      // stays not a number
    }
    require(weight >= 0 && std::isfinite(weight),
            "split \"{}\": \"{}\" is not a weight; wanted up to three numbers such as 969,30,1",
            split, part);
    weights.push_back(weight);
    at = end + 1;
  }
  return weights;
}

}  // namespace

std::array<std::int64_t, 4> split_documents(const std::string& split, std::int64_t documents) {
  std::vector<double> weights = parsed_weights(split);
  require(weights.size() <= 3, "split \"{}\": has {} parts; wanted training, validation, test",
          split, weights.size());
  weights.resize(3, 0);
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  require(sum > 0, "split \"{}\": its weights sum to 0", split);
  std::array<std::int64_t, 4> borders{};
  for (std::size_t p = 0; p < 3; ++p) {
    const double share = weights[p] / sum * static_cast<double>(documents);
    borders[p + 1] = borders[p] + std::llrint(share);  // half to even, as Python's round
  }
  const std::int64_t excess = borders[3] - documents;
  for (std::size_t p = 1; p <= 3; ++p) borders[p] -= excess;
  for (auto& border : borders) border = std::max<std::int64_t>(border, 0);
  return borders;
}

Blend::Blend(std::span<const double> weights, std::int64_t samples) {
  require(!weights.empty() && weights.size() <= 255, "data: a blend of {} corpora; wanted 1 to 255",
          weights.size());
  double sum = 0;
  for (const double w : weights) {
    require(w >= 0 && std::isfinite(w), "data: weight {} in a blend; wanted 0 or more", w);
    sum += w;
  }
  require(sum > 0, "data: the weights of a blend sum to 0");
  require(samples <= 0xffffffff, "data: a blend of {} samples; at most 2^32 - 1 are supported",
          samples);
  std::vector<std::int64_t> taken(weights.size(), 0);
  corpus_.reserve(static_cast<std::size_t>(samples));
  sample_.reserve(static_cast<std::size_t>(samples));
  for (std::int64_t i = 0; i < samples; ++i) {
    const double reached = std::max(static_cast<double>(i), 1.0);
    std::size_t behind = 0;
    double most = -1;
    for (std::size_t d = 0; d < weights.size(); ++d) {
      const double lag = weights[d] / sum * reached - static_cast<double>(taken[d]);
      if (d == 0 || lag > most) {
        behind = d;
        most = lag;
      }
    }
    corpus_.push_back(static_cast<std::uint8_t>(behind));
    sample_.push_back(static_cast<std::uint32_t>(taken[behind]++));
  }
}

std::vector<double> weights_by_documents(std::span<const std::int64_t> documents, double alpha) {
  double all = 0;
  for (const auto n : documents) all += static_cast<double>(n);
  const auto normalised = [](std::vector<double> p) {
    const double sum = std::accumulate(p.begin(), p.end(), 0.0);
    require(sum > 0, "data: weight_by_num_documents needs two corpora with documents");
    for (double& x : p) x /= sum;
    return p;
  };
  std::vector<double> p;
  for (const auto n : documents) p.push_back(std::pow(static_cast<double>(n) / all, alpha));
  p = normalised(std::move(p));
  for (std::size_t d = 0; d < p.size(); ++d) p[d] *= 1 - static_cast<double>(documents[d]) / all;
  return normalised(std::move(p));
}

}  // namespace metala
