#include "metala/io/safetensors.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "metala/io/json.h"
#include "metala/io/printable.h"

namespace metala {
namespace {

constexpr std::uint64_t longest_header = 100'000'000;

// Bits of an element of every type the format knows; 0 for a word it does not.
int bits_of(const std::string& dtype) {
  static const std::map<std::string, int> bits = {
      {"BOOL", 8},    {"U8", 8},      {"I8", 8},          {"I16", 16},        {"U16", 16},
      {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
      {"C64", 64},    {"F64", 64},    {"I64", 64},        {"U64", 64},        {"F8_E5M2", 8},
      {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"F6_E2M3", 6},
      {"F6_E3M2", 6}, {"F4", 4}};
  const auto found = bits.find(dtype);
  return found == bits.end() ? 0 : found->second;
}

std::uint64_t unsigned_number(const nlohmann::json& value, const std::string& what) {
  require(value.is_number_unsigned(), "{} is {}; wanted a number of 0 or more", what,
          value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).substr(0, 60));
  return value.get<std::uint64_t>();
}

// Bytes of a tensor, exactly; refuses products that overflow.
std::uint64_t bytes_of(const TensorInfo& info, const std::string& what) {
  const auto bits = static_cast<std::uint64_t>(bits_of(info.dtype));
  std::uint64_t total = bits;
  for (const auto size : info.shape) {
    const auto n = static_cast<std::uint64_t>(size);
    require(n == 0 || total <= std::numeric_limits<std::uint64_t>::max() / n,
            "{}: its shape has more elements than fit in 64 bits", what);
    total *= n;
  }
  require(total % 8 == 0, "{}: its elements of {} bits do not fill whole bytes", what, bits);
  return total / 8;
}

SafetensorsEntry parse_entry(const nlohmann::json& entry, const std::string& what) {
  require(entry.is_object() && entry.contains("dtype") && entry.contains("shape") &&
              entry.contains("data_offsets") && entry.size() == 3,
          "{}: wanted an object of dtype, shape and data_offsets", what);
  SafetensorsEntry info;
  require(entry["dtype"].is_string(), "{}: dtype must be a string", what);
  info.dtype = entry["dtype"].get<std::string>();
  require(bits_of(info.dtype) != 0, "{}: unknown dtype \"{}\"", what, printable(info.dtype));
  require(entry["shape"].is_array(), "{}: shape must be a list", what);
  for (const auto& size : entry["shape"]) {
    const auto n = unsigned_number(size, what + ": a size");
    require(n <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()),
            "{}: size {} is beyond 64 bits", what, n);
    info.shape.push_back(static_cast<std::int64_t>(n));
  }
  const auto& offsets = entry["data_offsets"];
  require(offsets.is_array() && offsets.size() == 2, "{}: data_offsets must be two numbers", what);
  info.begin = unsigned_number(offsets[0], what + ": data_offsets");
  info.end = unsigned_number(offsets[1], what + ": data_offsets");
  require(info.begin <= info.end, "{}: data_offsets run backwards, {} to {}", what, info.begin,
          info.end);
  const std::uint64_t bytes = bytes_of(info, what);
  require(info.end - info.begin == bytes, "{}: has {} bytes; its shape needs {}", what,
          info.end - info.begin, bytes);
  return info;
}

void check_coverage(const std::map<std::string, SafetensorsEntry>& tensors,
                    std::uint64_t data_bytes, const std::string& path) {
  std::vector<std::pair<const SafetensorsEntry*, const std::string*>> order;
  for (const auto& [name, info] : tensors) order.emplace_back(&info, &name);
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::pair(a.first->begin, a.first->end) < std::pair(b.first->begin, b.first->end);
  });
  std::uint64_t at = 0;
  for (const auto& [info, name] : order) {
    require(info->begin >= at, "{}: {} overlaps the tensor before it", path, printable(*name));
    require(info->begin == at, "{}: {} unused bytes before {}", path, info->begin - at,
            printable(*name));
    require(info->end <= data_bytes, "{}: {} ends at byte {} of {}; the file is truncated", path,
            printable(*name), info->end, data_bytes);
    at = info->end;
  }
  require(at == data_bytes, "{}: {} bytes after the last tensor", path, data_bytes - at);
}

std::string header_of(const std::vector<std::pair<std::string, Tensor>>& order,
                      const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header;
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::uint64_t at = 0;
  for (const auto& [name, tensor] : order) {
    const std::vector<std::int64_t> shape(tensor.shape().begin(), tensor.shape().end());
    header[name] = {{"dtype", safetensors_word(tensor.dtype())},
                    {"shape", shape},
                    {"data_offsets", {at, at + tensor.bytes()}}};
    at += tensor.bytes();
  }
  std::string text = order.empty() && metadata.empty() ? "{}" : header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return text;
}

}  // namespace

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  SafetensorsFile f;
  f.file_ = MappedFile::open(path);
  const auto bytes = f.file_.bytes();
  require(bytes.size() >= 8, "{}: {} bytes are too few for a safetensors file", path, bytes.size());
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), 8);
  require(header_bytes > 0 && header_bytes <= longest_header && header_bytes <= bytes.size() - 8,
          "{}: its header claims {} bytes of a file of {}; not a safetensors file, or truncated",
          path, header_bytes, bytes.size());
  const std::string text(reinterpret_cast<const char*>(bytes.data()) + 8, header_bytes);
  require(text.front() == '{', "{}: the header does not start with '{{'", path);
  const auto header = parse_json(text, path);
  f.data_start_ = 8 + static_cast<std::size_t>(header_bytes);
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      require(entry.is_object(), "{}: __metadata__ must be an object of strings", path);
      for (const auto& [key, value] : entry.items()) {
        require(value.is_string(), "{}: __metadata__ {} is not a string", path, printable(key));
        f.metadata_.emplace(key, value.get<std::string>());
      }
    } else {
      f.tensors_.emplace(name, parse_entry(entry, path + ": " + printable(name)));
    }
  }
  check_coverage(f.tensors_, bytes.size() - f.data_start_, path);
  return f;
}

std::vector<std::string> SafetensorsFile::names() const {
  std::vector<std::string> names;
  for (const auto& [name, info] : tensors_) names.push_back(name);
  return names;
}

Tensor SafetensorsFile::tensor(const std::string& name) const {
  const auto found = tensors_.find(name);
  require(found != tensors_.end(), "{}: has no tensor {}", path(), printable(name));
  const SafetensorsEntry& info = found->second;
  const std::string what = path() + ": " + printable(name);
  const DType type = representable_type(info, what);
  const Shape shape = representable_shape(info, what);
  return tensor_over(file_.bytes().data() + data_start_ + info.begin, shape, type, file_.owner());
}

void write_safetensors(const std::string& path, const std::map<std::string, Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<std::pair<std::string, Tensor>> order(tensors.begin(), tensors.end());
  std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return size_of(a.second.dtype()) > size_of(b.second.dtype());
  });
  const std::string header = header_of(order, metadata);
  write_file_atomically(path, [&](std::ostream& out) {
    const std::uint64_t n = header.size();
    out.write(reinterpret_cast<const char*>(&n), 8);
    out.write(header.data(), static_cast<std::streamsize>(n));
    for (const auto& [name, tensor] : order) {
      const Tensor flat = tensor.contiguous() ? tensor : tensor.copy();
      out.write(static_cast<const char*>(flat.raw()), static_cast<std::streamsize>(flat.bytes()));
    }
  });
}

}  // namespace metala
