// Cutting a corpus's documents into training, validation and test, and mixing several corpora, as
// GPT-NeoX does.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace metala {

// Borders of the three parts among `documents`: part p has documents [b[p], b[p+1]). `split` is up
// to three weights, separated by commas or slashes: "969, 30, 1". Throws Error for anything else.
std::array<std::int64_t, 4> split_documents(const std::string& split, std::int64_t documents);

// Which corpus sample i comes from, and the how-manieth of that corpus it is: greedily the corpus
// that lags most behind its weight, the first one where two lag alike.
class Blend {
 public:
  // Weights of any positive sum. Throws Error for negative or all-zero ones.
  Blend(std::span<const double> weights, std::int64_t samples);

  struct Choice {
    std::int64_t corpus = 0, sample = 0;
  };
  Choice operator[](std::int64_t i) const {
    const auto at = static_cast<std::size_t>(i);
    return {corpus_[at], sample_[at]};
  }
  std::int64_t size() const { return static_cast<std::int64_t>(corpus_.size()); }

 private:
  std::vector<std::uint8_t> corpus_;
  std::vector<std::uint32_t> sample_;
};

// GPT-NeoX's weight_by_num_documents: corpus d with n_d of n documents gets weight
// p_d (1 - n_d / n), p_d proportional to (n_d / n)^alpha; the result sums to 1.
std::vector<double> weights_by_documents(std::span<const std::int64_t> documents, double alpha);

}  // namespace metala
