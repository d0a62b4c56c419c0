#include "metala/data/dataset_tools.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <utility>

#include "metala/base/error.h"
#include "metala/data/dataset_info.h"
#include "metala/data/splits.h"
#include "metala/data/token_writer.h"
#include "metala/io/file.h"

namespace metala {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t largest_tokenizer_file = std::size_t{256} << 20;

// The files of a dataset's tokenizer by name; empty where it has none.
std::map<std::string, std::string> tokenizer_files(const std::string& prefix) {
  std::map<std::string, std::string> files;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(tokenizer_folder(prefix), none)) {
    files.emplace(entry.path().filename().string(),
                  read_file(entry.path().string(), largest_tokenizer_file));
  }
  return files;
}

// What is known of a dataset about to be written; what an earlier one of that name left is not.
void describe(const std::string& prefix, const std::optional<DatasetInfo>& info,
              const std::map<std::string, std::string>& files) {
  std::error_code none;
  fs::remove(prefix + ".json", none);
  fs::remove_all(tokenizer_folder(prefix), none);
  if (info) write_dataset_info(prefix, *info);
  if (files.empty()) return;
  fs::create_directories(tokenizer_folder(prefix));
  for (const auto& [name, text] : files) {
    write_file_atomically(tokenizer_folder(prefix) + "/" + name, text);
  }
}

void refuse_existing(const std::string& prefix) {
  require(!fs::exists(prefix + ".idx"), "{}.idx: is there already; choose another --output",
          prefix);
}

// What one dataset is made of.
struct Source {
  TokenDataset tokens;
  std::optional<TokenDataset> labels;
};

Source open_source(const std::string& named) {
  TokenDataset tokens = TokenDataset::open(named);
  std::optional<TokenDataset> labels = labels_of(tokens);
  if (labels) check_labels(tokens, *labels);
  return {std::move(tokens), std::move(labels)};
}

// Writes tokens, and labels beside them; removes what it wrote unless it is told to keep it.
class Output {
 public:
  Output(const std::string& prefix, TokenType type, bool labelled)
      : prefix_(prefix), tokens_(prefix, type) {
    if (labelled) labels_.emplace(labels_prefix(prefix), TokenType::i32);
  }
  ~Output() {
    if (stage_ == Stage::kept) return;
    tokens_.discard();
    if (labels_) labels_->discard();
    if (stage_ == Stage::finished) {
      remove_dataset(prefix_);
      if (labels_) remove_dataset(labels_prefix(prefix_));
    }
    if (stage_ >= Stage::described) describe(prefix_, std::nullopt, {});
  }
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;

  std::int64_t tokens() const { return tokens_.position().tokens; }

  // Documents [first, last).
  void append(const Source& from, std::int64_t first, std::int64_t last,
              const std::function<void(std::int64_t)>& progress = {}) {
    const TokenIndex& index = from.tokens.index();
    const auto documents = index.documents();
    std::int64_t document = 0;  // as the index groups sequences; its border follows `sequence`
    while (document < documents && index.first_sequence(document + 1) <= first) ++document;
    std::vector<std::int32_t> labels;
    for (std::int64_t sequence = first; sequence < last; ++sequence) {
      while (document < documents && index.first_sequence(document + 1) <= sequence) ++document;
      const bool ends = index.first_sequence(document + 1) == sequence + 1 || sequence + 1 == last;
      tokens_.add(from.tokens.read(sequence), ends);
      if (labels_) {
        labels.resize(static_cast<std::size_t>(from.labels->length(sequence)));
        from.labels->read_labels(sequence, 0, labels);
        labels_->add(labels, ends);
      }
      if (progress) progress(1);
    }
  }

  // Makes it a dataset of which this is known.
  void finish(const std::optional<DatasetInfo>& info,
              const std::map<std::string, std::string>& tokenizer) {
    stage_ = Stage::described;
    describe(prefix_, info, tokenizer);
    tokens_.finish(labels_ ? &*labels_ : nullptr);
    stage_ = Stage::finished;
  }

  void keep() { stage_ = Stage::kept; }

 private:
  enum class Stage { begun, described, finished, kept };

  static void remove_dataset(const std::string& prefix) {
    std::error_code ignored;
    fs::remove(prefix + ".idx", ignored);
    fs::remove(prefix + ".bin", ignored);
  }

  std::string prefix_;
  TokenWriter tokens_;
  std::optional<TokenWriter> labels_;
  Stage stage_ = Stage::begun;
};

TokenType widest(const std::vector<Source>& sets) {
  TokenType type = sets.front().tokens.index().type();
  for (const auto& set : sets) {
    const TokenType other = set.tokens.index().type();
    if (size_of(other) > size_of(type)) type = other;
    if (size_of(other) == size_of(type) && other != type) type = TokenType::i32;
  }
  return type;
}

// What holds for all datasets together, if each says it.
std::optional<DatasetInfo> joined_info(const std::vector<Source>& sets) {
  std::optional<DatasetInfo> all;
  for (const auto& [set, labels] : sets) {
    const auto info = read_dataset_info(set.prefix());
    if (!info) return std::nullopt;
    if (!all) {
      all = info;
      all->documents = all->tokens = 0;
      all->text_bytes = 0;
    }
    require(info->vocabulary == all->vocabulary && info->end_id == all->end_id,
            "{}: was prepared with {} (end {}), {} with {} (end {}); only datasets of one "
            "tokenizer can be merged",
            set.prefix(), info->tokenizer, info->end_id, sets.front().tokens.prefix(),
            all->tokenizer, all->end_id);
    all->documents += set.documents();
    all->tokens += set.tokens();
    all->text_bytes += info->text_bytes;
  }
  return all;
}

// How many of a document's tokens are to be learned. `scratch` is room for its labels.
std::int64_t count_labels(const TokenDataset* labels, std::int64_t document, std::int32_t tokens,
                          std::vector<std::int32_t>& scratch) {
  if (labels == nullptr) return tokens;
  scratch.resize(static_cast<std::size_t>(tokens));
  labels->read_labels(document, 0, scratch);
  return std::count_if(scratch.begin(), scratch.end(), [](std::int32_t l) { return l >= 0; });
}

}  // namespace

std::optional<TokenDataset> labels_of(const TokenDataset& tokens) {
  const auto info = read_dataset_info(tokens.prefix());
  if (!info || !info->labels) return std::nullopt;
  return TokenDataset::open(labels_prefix(tokens.prefix()));
}

void merge_datasets(const std::vector<std::string>& from, const std::string& prefix,
                    const std::function<void(std::int64_t documents)>& progress) {
  require(!from.empty(), "nothing to merge");
  refuse_existing(prefix);
  std::vector<Source> sets;
  for (const auto& name : from) sets.push_back(open_source(name));
  const TokenDataset& first = sets.front().tokens;
  const bool labelled = sets.front().labels.has_value();
  const auto tokenizer = tokenizer_files(first.prefix());
  for (const auto& set : sets) {
    require(tokenizer_files(set.tokens.prefix()) == tokenizer,
            "{}: its tokenizer is not that of {}; prepare both with the same --tokenizer",
            set.tokens.prefix(), first.prefix());
    require(set.labels.has_value() == labelled,
            "{}: has {}labels, {} has {}; blend them in training instead", set.tokens.prefix(),
            labelled ? "no " : "", first.prefix(), labelled ? "some" : "none");
  }
  if (labelled) refuse_existing(labels_prefix(prefix));
  const auto info = joined_info(sets);
  Output output(prefix, widest(sets), labelled);
  for (const auto& set : sets) output.append(set, 0, set.tokens.documents(), progress);
  output.finish(info, tokenizer);
  output.keep();
}

std::array<std::int64_t, 3> split_dataset(const std::string& from, const std::string& split,
                                          const std::string& prefix) {
  const Source set = open_source(from);
  const bool labelled = set.labels.has_value();
  const auto borders = split_documents(split, set.tokens.documents());
  const auto info = read_dataset_info(set.tokens.prefix());
  const auto tokenizer = tokenizer_files(set.tokens.prefix());
  const std::array<std::string, 3> names = {prefix + "_train", prefix + "_valid", prefix + "_test"};
  for (const auto& name : names) {
    refuse_existing(name);
    if (labelled) refuse_existing(labels_prefix(name));
  }
  std::array<std::int64_t, 3> counts{};
  std::array<std::optional<Output>, 3> outputs;
  for (std::size_t part = 0; part < 3; ++part) {
    counts[part] = borders[part + 1] - borders[part];
    if (counts[part] <= 0) continue;
    outputs[part].emplace(names[part], set.tokens.index().type(), labelled);
    outputs[part]->append(set, borders[part], borders[part + 1]);
  }
  for (std::size_t part = 0; part < 3; ++part) {
    if (!outputs[part]) continue;
    auto own = info;
    if (own) {
      own->documents = counts[part];
      own->tokens = outputs[part]->tokens();
      const double share = static_cast<double>(own->tokens) /
                           static_cast<double>(std::max<std::int64_t>(set.tokens.tokens(), 1));
      own->text_bytes = static_cast<std::uint64_t>(static_cast<double>(info->text_bytes) * share);
    }
    outputs[part]->finish(own, tokenizer);
  }
  for (auto& output : outputs) {
    if (output) output->keep();
  }
  return counts;
}

DatasetStatistics dataset_statistics(const TokenDataset& set, std::int32_t end_id,
                                     const TokenDataset* labels) {
  DatasetStatistics s;
  s.documents = set.documents();
  s.tokens = set.tokens();
  if (labels != nullptr) check_labels(set, *labels);
  std::vector<std::int32_t> lengths, own;
  for (std::int64_t d = 0; d < set.documents(); ++d) {
    const auto tokens = set.read(d);
    lengths.push_back(static_cast<std::int32_t>(tokens.size()));
    s.labelled += count_labels(labels, d, lengths.back(), own);
    if (tokens.empty()) {
      ++s.empty;
      continue;
    }
    s.largest_id = std::max(s.largest_id, *std::max_element(tokens.begin(), tokens.end()));
    s.ending_in_end_id += tokens.back() == end_id ? 1 : 0;
  }
  if (lengths.empty()) return s;
  std::sort(lengths.begin(), lengths.end());
  const auto at = [&](double share) {
    return lengths[static_cast<std::size_t>(share * static_cast<double>(lengths.size() - 1))];
  };
  s.shortest = lengths.front();
  s.median = at(0.5);
  s.ninetieth = at(0.9);
  s.longest = lengths.back();
  s.mean = static_cast<double>(s.tokens) / static_cast<double>(s.documents);
  return s;
}

}  // namespace metala
