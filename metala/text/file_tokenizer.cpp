#include "metala/text/file_tokenizer.h"

#include "metala/base/error.h"
#include "metala/io/file.h"
#include "metala/io/printable.h"

namespace metala {

FileTokenizer::FileTokenizer(const TokenizerConfig& config)
    : cleans_up_(config.clean_up_tokenization_spaces), files_(config.files) {}

void FileTokenizer::save(const std::string& folder) const {
  for (const auto& [name, content] : files_) {
    write_file_atomically(folder + "/" + name, content);
  }
}

void FileTokenizer::take_roles(const std::map<std::string, std::string>& named,
                               const std::string& source,
                               const std::function<std::int32_t(const std::string&)>& id_of) {
  const auto take = [&](const char* role, std::int32_t& id) {
    const auto name = named.find(role);
    if (name == named.end()) return;
    id = id_of(name->second);
    require(id >= 0, "{}: {} is \"{}\", which is no token", source, role, printable(name->second));
  };
  take("bos_token", bos_);
  take("eos_token", eos_);
  take("pad_token", pad_);
}

void FileTokenizer::take_frame(const TokenizerConfig& config, bool usually_bos) {
  if (config.add_bos_token.value_or(usually_bos) && bos_ >= 0) frame_.before = {bos_};
  if (config.add_eos_token.value_or(false) && eos_ >= 0) frame_.after = {eos_};
}

}  // namespace metala
