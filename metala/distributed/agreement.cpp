#include "metala/distributed/agreement.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "metala/base/random.h"
#include "metala/io/file.h"

namespace metala {
namespace {

constexpr std::int64_t message_length = 1024;  // the rest is cut off
constexpr std::int64_t value_length = 65536;

// Every rank's text, in the order of ranks; what exceeds `length` bytes is cut off.
std::vector<std::string> gather_texts(Communicator& group, const std::string& text,
                                      std::int64_t length) {
  const Tensor mine = Tensor::zeros({length}, DType::u8);
  std::memcpy(mine.raw(), text.data(), std::min(text.size(), static_cast<std::size_t>(length - 1)));
  const Tensor all = Tensor::zeros({group.size() * length}, DType::u8);
  group.all_gather(mine, all, "messages");
  std::vector<std::string> texts;
  for (int rank = 0; rank < group.size(); ++rank) {
    texts.emplace_back(static_cast<const char*>(all.raw()) + rank * length);
  }
  return texts;
}

}  // namespace

void together(Communicator& group, const std::function<void()>& f) {
  if (group.alone()) return f();
  // The first letter says what was thrown; nothing was: an empty text.
  std::string failure;
  try {
    f();
  } catch (const UsageError& e) {
    failure = std::string("u") + e.what();
  } catch (const std::exception& e) {
    failure = std::string("e") + e.what();
  }
  if (!group.any(!failure.empty(), "failures")) return;
  const auto failures = gather_texts(group, failure, message_length);
  const auto first = std::find_if(failures.begin(), failures.end(),
                                  [](const std::string& text) { return !text.empty(); });
  const bool everywhere = std::none_of(failures.begin(), failures.end(),
                                       [](const std::string& text) { return text.empty(); });
  const std::string who =
      everywhere ? "" : fmt::format("rank {} of {}: ", first - failures.begin(), group.size());
  throw AgreedError(who + first->substr(1), first->front() == 'u');
}

void require_same(Communicator& group, const Facts& facts) {
  if (group.alone()) return;
  const auto count = static_cast<std::int64_t>(facts.size());
  const Tensor mine = Tensor::zeros({count}, DType::i64);
  for (std::int64_t i = 0; i < count; ++i) {
    mine.data<std::int64_t>()[i] =
        static_cast<std::int64_t>(hash_name(facts[static_cast<std::size_t>(i)].second));
  }
  const Tensor all = Tensor::zeros({group.size() * count}, DType::i64);
  group.all_gather(mine, all, "hashes of program, configuration and tensors");
  const auto* hash = all.data<std::int64_t>();
  for (std::int64_t i = 0; i < count; ++i) {
    for (int rank = 1; rank < group.size(); ++rank) {
      if (hash[rank * count + i] == hash[i]) continue;
      const auto& [name, value] = facts[static_cast<std::size_t>(i)];
      const auto values = gather_texts(group, value, value_length);
      // Where the two values part.
      const std::string_view here = values[static_cast<std::size_t>(rank)], there = values[0];
      const auto at = static_cast<std::size_t>(
          std::mismatch(here.begin(), here.end(), there.begin(), there.end()).first - here.begin());
      const auto from = at < 40 ? 0 : at - 40;
      throw AgreedError(
          fmt::format("rank {} has another {} than rank 0: {} against {}; start every rank with "
                      "the same program, options and files",
                      rank, name, here.substr(from, 80), there.substr(from, 80)),
          false);
    }
  }
}

std::string program_fingerprint() {
  const MappedFile program = MappedFile::open("/proc/self/exe");
  const auto bytes = program.bytes();
  return fmt::format("{:016x}",
                     hash_name({reinterpret_cast<const char*>(bytes.data()), bytes.size()}));
}

}  // namespace metala
