#include "metala/data/dataset_tools.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>

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

void write_tokenizer(const std::string& prefix, const std::map<std::string, std::string>& files) {
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

// Appends documents [first, last) of a dataset to a writer.
void append(const TokenDataset& from, std::int64_t first, std::int64_t last, TokenWriter& into,
            const std::function<void(std::int64_t)>& progress) {
  const TokenIndex& index = from.index();
  const auto documents = index.documents();
  std::int64_t document = 0;  // as the index groups sequences; its border follows `sequence`
  while (document < documents && index.first_sequence(document + 1) <= first) ++document;
  for (std::int64_t sequence = first; sequence < last; ++sequence) {
    while (document < documents && index.first_sequence(document + 1) <= sequence) ++document;
    const bool ends = index.first_sequence(document + 1) == sequence + 1 || sequence + 1 == last;
    into.add(from.read(sequence), ends);
    if (progress) progress(1);
  }
}

TokenType widest(const std::vector<TokenDataset>& sets) {
  TokenType type = sets.front().index().type();
  for (const auto& set : sets) {
    const TokenType other = set.index().type();
    if (size_of(other) > size_of(type)) type = other;
    if (size_of(other) == size_of(type) && other != type) type = TokenType::i32;
  }
  return type;
}

// What holds for all datasets together, if each says it.
std::optional<DatasetInfo> joined_info(const std::vector<TokenDataset>& sets) {
  std::optional<DatasetInfo> all;
  for (const auto& set : sets) {
    const auto info = read_dataset_info(set.prefix());
    if (!info) return std::nullopt;
    if (!all) {
      all = info;
      continue;
    }
    require(info->vocabulary == all->vocabulary && info->end_id == all->end_id,
            "{}: was prepared with {} (end {}), {} with {} (end {}); only datasets of one "
            "tokenizer can be merged",
            set.prefix(), info->tokenizer, info->end_id, sets.front().prefix(), all->tokenizer,
            all->end_id);
    all->documents += info->documents;
    all->tokens += info->tokens;
    all->text_bytes += info->text_bytes;
  }
  return all;
}

}  // namespace

void merge_datasets(const std::vector<std::string>& from, const std::string& prefix,
                    const std::function<void(std::int64_t documents)>& progress) {
  require(!from.empty(), "nothing to merge");
  refuse_existing(prefix);
  std::vector<TokenDataset> sets;
  for (const auto& name : from) sets.push_back(TokenDataset::open(name));
  const auto tokenizer = tokenizer_files(sets.front().prefix());
  for (const auto& set : sets) {
    require(tokenizer_files(set.prefix()) == tokenizer,
            "{}: its tokenizer is not that of {}; prepare both with the same --tokenizer",
            set.prefix(), sets.front().prefix());
  }
  const auto info = joined_info(sets);
  TokenWriter writer(prefix, widest(sets));
  try {
    for (const auto& set : sets) append(set, 0, set.documents(), writer, progress);
    if (info) write_dataset_info(prefix, *info);
    write_tokenizer(prefix, tokenizer);
    writer.finish();
  } catch (...) {
    writer.discard();
    throw;
  }
}

std::array<std::int64_t, 3> split_dataset(const std::string& from, const std::string& split,
                                          const std::string& prefix) {
  const TokenDataset set = TokenDataset::open(from);
  const auto borders = split_documents(split, set.documents());
  const auto info = read_dataset_info(set.prefix());
  const auto tokenizer = tokenizer_files(set.prefix());
  const std::array<std::string, 3> names = {prefix + "_train", prefix + "_valid", prefix + "_test"};
  for (const auto& name : names) refuse_existing(name);
  std::array<std::int64_t, 3> counts{};
  for (std::size_t part = 0; part < 3; ++part) {
    counts[part] = borders[part + 1] - borders[part];
    if (counts[part] <= 0) continue;
    TokenWriter writer(names[part], set.index().type());
    try {
      append(set, borders[part], borders[part + 1], writer, {});
      if (info) {
        DatasetInfo own = *info;
        own.documents = counts[part];
        own.tokens = writer.position().tokens;
        own.text_bytes = static_cast<std::uint64_t>(
            static_cast<double>(info->text_bytes) * static_cast<double>(own.tokens) /
            static_cast<double>(std::max<std::int64_t>(info->tokens, 1)));
        write_dataset_info(names[part], own);
      }
      write_tokenizer(names[part], tokenizer);
      writer.finish();
    } catch (...) {
      writer.discard();
      throw;
    }
  }
  return counts;
}

DatasetStatistics dataset_statistics(const TokenDataset& set, std::int32_t end_id) {
  DatasetStatistics s;
  s.documents = set.documents();
  s.tokens = set.tokens();
  std::vector<std::int32_t> lengths;
  for (std::int64_t d = 0; d < set.documents(); ++d) {
    const auto tokens = set.read(d);
    lengths.push_back(static_cast<std::int32_t>(tokens.size()));
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
