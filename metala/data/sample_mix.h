// SampleMix: the samples that one part of a run (training, validation or test) reads: those of one
// corpus, or of several blended by weight.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "metala/data/index_maps.h"
#include "metala/data/sample_index.h"
#include "metala/data/splits.h"
#include "metala/data/token_dataset.h"

namespace metala {

class SampleMix {
 public:
  // No samples.
  SampleMix() = default;

  // Documents first to last - 1 of a dataset; none if there are none or none are wanted. `labels`,
  // if given, has a number for each token: what is to be predicted of it, below 0: nothing.
  static SampleMix of_range(std::shared_ptr<const TokenDataset>, std::int64_t first,
                            std::int64_t last, const SampleOptions&,
                            std::shared_ptr<const TokenDataset> labels = nullptr,
                            const IndexMapOptions& = {});

  // All documents of several datasets, with the labels that `labels` names for each, if it does not
  // leave that empty. Dataset d provides ceil(wanted w_d 1.005) samples and the mix has as many as
  // all together (GPT-NeoX's numbers).
  static SampleMix of_files(const std::vector<std::string>& prefixes, std::vector<double> weights,
                            const SampleOptions&, const std::vector<std::string>& labels = {},
                            const IndexMapOptions& = {});

  std::int64_t size() const;
  std::int64_t epochs() const;  // of the corpus that is read most often
  std::int64_t tokens() const;  // of the documents, each read once

  bool labelled() const;  // any of its datasets has labels

  // Sample i's T + 1 tokens; how many there are, fewer only where samples are of whole documents:
  // the rest is 0. `borders`, if given, receives in rising order the positions 1 .. T at which
  // another document begins; `labels`, if not empty, as many as tokens, the rest -100. Throws Error
  // naming dataset and document for an id that is not below `vocabulary`.
  std::int64_t read(std::int64_t i, std::int64_t vocabulary, std::span<std::int32_t> tokens,
                    std::vector<std::int64_t>* borders = nullptr,
                    std::span<std::int32_t> labels = {}) const;

 private:
  struct Part {
    std::shared_ptr<const TokenDataset> dataset, labels;
    SampleIndex index;
    std::int64_t tokens = 0;
    bool whole_documents = false;
  };
  static Part part(std::shared_ptr<const TokenDataset>, std::shared_ptr<const TokenDataset> labels,
                   std::int64_t first, std::int64_t last, const SampleOptions&,
                   const IndexMapOptions&);

  std::vector<Part> parts_;
  std::optional<Blend> blend_;
};

}  // namespace metala
