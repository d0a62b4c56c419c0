// What tokenizers that come as files have in common: which tokens begin, end and pad a text, and
// being saved as they came.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "metala/text/tokenizer.h"
#include "metala/text/tokenizer_config.h"

namespace metala {

class FileTokenizer : public Tokenizer {
 public:
  std::int32_t bos() const final { return bos_; }
  std::int32_t eos() const final { return eos_; }
  std::int32_t pad() const final { return pad_; }
  Frame frame() const final { return frame_; }
  bool cleans_up_spaces() const final { return cleans_up_; }
  void save(const std::string& folder) const final;

  // A file to save, beside those that `config` was read from.
  void keep_file(std::string name, std::string content) {
    files_.emplace_back(std::move(name), std::move(content));
  }

 protected:
  explicit FileTokenizer(const TokenizerConfig& config);

  // Takes bos_token, eos_token and pad_token from `named`; what nobody names stays. `id_of` gives
  // -1 for what is no token: an Error that starts with `source`.
  void take_roles(const std::map<std::string, std::string>& named, const std::string& source,
                  const std::function<std::int32_t(const std::string&)>& id_of);
  // Puts bos before a text and eos after it where `config` says so; where it does not, bos by
  // `usually_bos`, eos never.
  void take_frame(const TokenizerConfig& config, bool usually_bos);

  std::int32_t bos_ = -1, eos_ = -1, pad_ = -1;
  Frame frame_;

 private:
  bool cleans_up_;
  std::vector<std::pair<std::string, std::string>> files_;  // name, content
};

}  // namespace metala
