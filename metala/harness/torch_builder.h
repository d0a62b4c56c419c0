// Pickles as torch.save writes them, made by hand, for tests of what reads them.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "metala/harness/zip_builder.h"

namespace metala::harness {

inline std::string pickled(const std::string& text) {
  std::string bytes = "X";
  append_number(bytes, static_cast<std::uint32_t>(text.size()));
  return bytes + text;
}

inline std::string pickled(std::int64_t number) {
  std::string bytes = "\x8a\x08";
  append_number(bytes, number);
  return bytes;
}

inline std::string pickled_global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}

inline std::string pickled_tuple(const std::vector<std::string>& items) {
  std::string bytes = "(";
  for (const auto& item : items) bytes += item;
  return bytes + "t";
}

inline std::string pickled_counts(const std::vector<std::int64_t>& counts) {
  std::vector<std::string> items;
  for (const auto count : counts) items.push_back(pickled(count));
  return pickled_tuple(items);
}

struct PickledTensor {
  std::string storage = "FloatStorage", key = "0";
  std::int64_t count = 6, offset = 0;
  std::vector<std::int64_t> sizes = {2, 3}, strides = {3, 1};
  std::vector<std::string> storage_view = {};  // legacy: the id's sixth part
};

inline std::string pickled_storage(const PickledTensor& t) {
  std::vector<std::string> id = {pickled("storage"), pickled_global("torch", t.storage),
                                 pickled(t.key), pickled("cpu"), pickled(t.count)};
  id.insert(id.end(), t.storage_view.begin(), t.storage_view.end());
  return pickled_tuple(id) + "Q";
}

inline std::string pickled_tensor(const PickledTensor& t) {
  return pickled_global("torch._utils", "_rebuild_tensor_v2") +
         pickled_tuple({pickled_storage(t), pickled(t.offset), pickled_counts(t.sizes),
                        pickled_counts(t.strides), "\x89",
                        pickled_global("collections", "OrderedDict") + ")R"}) +
         "R";
}

inline std::string pickled_dict(const std::vector<std::pair<std::string, std::string>>& entries) {
  std::string bytes = "}(";
  for (const auto& [key, value] : entries) bytes += pickled(key) + value;
  return bytes + "u";
}

// The zip file of one pickled value and the bytes of its storages.
inline std::string torch_zip(const std::string& value,
                             const std::vector<std::pair<std::string, std::string>>& storages,
                             const ZipOptions& options = {}) {
  std::vector<std::pair<std::string, std::string>> entries = {
      {"model/data.pkl", "\x80\x02" + value + "."}, {"model/byteorder", "little"}};
  for (const auto& [key, bytes] : storages) entries.emplace_back("model/data/" + key, bytes);
  entries.emplace_back("model/version", "3\n");
  return zip_of(entries, options);
}

// The legacy stream of the same; `element_bytes` is the size of every storage's elements.
inline std::string torch_legacy(const std::string& value,
                                const std::vector<std::pair<std::string, std::string>>& storages,
                                std::size_t element_bytes) {
  std::string bytes("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15);
  bytes += "\x80\x02M\xe9\x03.";
  bytes +=
      "\x80\x02" + pickled_dict({{"protocol_version", "M\xe9\x03"}, {"little_endian", "\x88"}});
  bytes += ".\x80\x02" + value + ".\x80\x02](";
  for (const auto& [key, data] : storages) bytes += pickled(key);
  bytes += "e.";
  for (const auto& [key, data] : storages) {
    append_number(bytes, static_cast<std::uint64_t>(data.size() / element_bytes));
    bytes += data;
  }
  return bytes;
}

}  // namespace metala::harness
