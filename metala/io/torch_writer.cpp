#include "metala/io/torch_writer.h"

#include <cassert>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "metala/base/error.h"
#include "metala/io/file.h"
#include "metala/io/zip_writer.h"

namespace metala {
namespace {

const char* storage_for(DType type) {
  switch (type) {
    case DType::f32:
      return "FloatStorage";
    case DType::f64:
      return "DoubleStorage";
    case DType::bf16:
      return "BFloat16Storage";
    case DType::f16:
      return "HalfStorage";
    case DType::i32:
      return "IntStorage";
    case DType::i64:
      return "LongStorage";
    case DType::u8:
      return "ByteStorage";
    case DType::q8:
    case DType::q4:
      break;
  }
  fail("torch: has no type for {}", name_of(type));
}

// Opcodes of protocol 2, appended to a string.
class PickleWriter {
 public:
  PickleWriter() { bytes_ = "\x80\x02"; }

  void opcode(char c) { bytes_ += c; }
  void text(const std::string& text) {
    assert(text.size() <= std::numeric_limits<std::uint32_t>::max());
    opcode('X');
    number(static_cast<std::uint32_t>(text.size()));
    bytes_ += text;
  }
  void integer(std::int64_t value) {
    if (value >= 0 && value <= std::numeric_limits<std::int32_t>::max()) {
      opcode('J');
      number(static_cast<std::int32_t>(value));
    } else {
      bytes_ += "\x8a\x08";
      number(value);
    }
  }
  void global(const std::string& module, const std::string& name) {
    bytes_ += "c" + module + "\n" + name + "\n";
  }

  void tensor(const Tensor& t, const std::string& key) {
    global("torch._utils", "_rebuild_tensor_v2");
    bytes_ += "((";
    text("storage");
    global("torch", storage_for(t.dtype()));
    text(key);
    text("cpu");
    integer(t.count());
    bytes_ += "tQ";
    integer(0);
    std::vector<std::int64_t> strides(static_cast<std::size_t>(t.rank()), 1);
    for (int i = t.rank() - 1; i > 0; --i) {
      strides[static_cast<std::size_t>(i) - 1] = strides[static_cast<std::size_t>(i)] * t.size(i);
    }
    tuple(t.shape());
    tuple(strides);
    bytes_ += '\x89';  // requires_grad
    global("collections", "OrderedDict");
    bytes_ += ")RtR";
  }

  const std::string& bytes() const { return bytes_; }

 private:
  template <class Number>
  void number(Number value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }

  template <class Counts>
  void tuple(const Counts& counts) {
    opcode('(');
    for (const std::int64_t count : counts) integer(count);
    opcode('t');
  }

  std::string bytes_;
};

}  // namespace

void write_torch(const std::string& path, const std::map<std::string, Tensor>& tensors) {
  std::vector<Tensor> storages;
  std::map<std::pair<const void*, std::pair<DType, std::int64_t>>, std::size_t> known;
  PickleWriter pickle;
  pickle.opcode('}');
  pickle.opcode('(');
  for (const auto& [name, tensor] : tensors) {
    const Tensor flat = tensor.contiguous() ? tensor : tensor.copy();
    const auto [at, fresh] = known.emplace(
        std::pair(flat.raw(), std::pair(flat.dtype(), flat.count())), storages.size());
    if (fresh) storages.push_back(flat);
    pickle.text(name);
    pickle.tensor(flat, std::to_string(at->second));
  }
  pickle.opcode('u');
  pickle.opcode('.');

  const std::string top = std::filesystem::path(path).stem().string() + "/";
  write_file_atomically(path, [&](std::ostream& out) {
    ZipWriter zip(out);
    zip.add(top + "data.pkl", pickle.bytes());
    zip.add(top + "byteorder", "little");
    for (std::size_t i = 0; i < storages.size(); ++i) {
      const Tensor& t = storages[i];
      zip.add(top + "data/" + std::to_string(i),
              std::span(static_cast<const std::byte*>(t.raw()), t.bytes()));
    }
    zip.add(top + "version", "3\n");
    zip.finish();
  });
}

}  // namespace metala
