#include "metala/cli/text_windows.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "metala/base/random.h"
#include "metala/data/documents.h"

namespace metala::cli {
namespace {

constexpr std::size_t window = 512;  // tokens

std::vector<std::int32_t> ids_of(const Document& document, const Tokenizer& tokenizer) {
  return document.ids.empty() ? tokenizer.encode(document.text) : document.ids;
}

}  // namespace

Sequences first_windows(const std::vector<std::string>& texts, std::int64_t wanted,
                        const Tokenizer& tokenizer) {
  Sequences sequences;
  const auto enough = static_cast<std::size_t>(wanted);
  read_documents(texts, {}, [&](const Document& document) {
    if (sequences.ids.size() >= enough) return;
    const auto ids = ids_of(document, tokenizer);
    for (std::size_t at = 0; at + 1 < ids.size() && sequences.ids.size() < enough; at += window) {
      sequences.add(std::span(ids).subspan(at, std::min(window, ids.size() - at)));
    }
  });
  return sequences;
}

Sequences scattered_windows(const std::vector<std::string>& texts, std::int64_t wanted,
                            const Tokenizer& tokenizer) {
  constexpr std::uint64_t documents = 1024;
  const Philox random(0, 0);
  std::vector<Document> sample;  // each document is in it with the same probability
  std::uint64_t read = 0;
  read_documents(texts, {}, [&](const Document& document) {
    const std::uint64_t place = random.block(read)[0] % (read + 1);
    ++read;
    if (sample.size() < documents) {
      sample.push_back(document);
    } else if (place < documents) {
      sample[place] = document;
    }
  });
  std::vector<std::vector<std::int32_t>> all;
  for (const Document& document : sample) {
    const auto ids = ids_of(document, tokenizer);
    for (std::size_t at = 0; at + 1 < ids.size(); at += window) {
      const auto begin = ids.begin() + static_cast<std::ptrdiff_t>(at);
      all.emplace_back(begin,
                       begin + static_cast<std::ptrdiff_t>(std::min(window, ids.size() - at)));
    }
  }
  Sequences sequences;
  const Philox order(0, 1);
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (sequences.ids.size() >= static_cast<std::size_t>(wanted)) break;
    std::swap(all[i], all[i + order.block(i)[0] % (all.size() - i)]);
    sequences.add(all[i]);
  }
  return sequences;
}

}  // namespace metala::cli
