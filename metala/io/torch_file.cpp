#include "metala/io/torch_file.h"

#include <cstring>
#include <string_view>

#include "metala/base/error.h"
#include "metala/io/byte_reader.h"
#include "metala/io/printable.h"
#include "metala/io/torch_tensors.h"
#include "metala/io/zip_archive.h"

namespace metala {
namespace {

using namespace std::string_view_literals;
using Id = Pickle::Id;
using Kind = Pickle::Kind;

// The pickled number with which a legacy stream starts.
constexpr std::string_view legacy_magic =
    "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."sv;
constexpr std::int64_t legacy_protocol = 1001;
constexpr std::size_t tar_magic_at = 257;

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

[[noreturn]] void refuse_format(const std::string& path, std::string_view bytes) {
  const bool tar = bytes.size() > tar_magic_at && bytes.substr(tar_magic_at).starts_with("ustar");
  require(!tar, "{}: is a tar file of PyTorch's first versions; load it there and save it again",
          path);
  require(!bytes.starts_with("version https://git-lfs"),
          "{}: is a Git LFS pointer, not the weights; fetch them with git lfs pull", path);
  fail("{}: is not a file of torch.save (neither zip nor its legacy stream)", path);
}

// Copies the elements of a view, last dimension innermost.
void gather(const std::byte* from, std::byte* to, const TorchView& view, std::size_t bytes) {
  const std::size_t rank = view.shape.size();
  std::vector<std::int64_t> at(rank, 0);
  std::int64_t element = 0;
  for (;;) {
    std::memcpy(to, from + static_cast<std::size_t>(element) * bytes, bytes);
    to += bytes;
    std::size_t i = rank;
    while (i-- > 0) {
      if (view.shape[i] > 1) element += view.strides[i];  // else it may be any number
      if (++at[i] < view.shape[i]) break;
      if (view.shape[i] > 1) element -= view.strides[i] * view.shape[i];
      at[i] = 0;
      if (i == 0) return;
    }
  }
}

}  // namespace

TorchFile TorchFile::open(const std::string& path, const std::string& part) {
  TorchFile file;
  file.file_ = MappedFile::open(path);
  const auto bytes = file.file_.bytes();
  if (ZipArchive::recognizes(bytes)) {
    file.read_zip();
  } else if (text_of(bytes).starts_with(legacy_magic)) {
    file.read_legacy();
  } else {
    refuse_format(path, text_of(bytes));
  }
  file.find_tensors(part);
  return file;
}

void TorchFile::read_zip() {
  const auto archive = ZipArchive::read(file_);
  constexpr std::string_view pickle_name = "/data.pkl";
  std::string top;
  for (const auto& [name, bytes] : archive.entries()) {
    if (!name.ends_with(pickle_name) || name.find('/') != name.size() - pickle_name.size())
      continue;
    require(top.empty(), "{}: holds both {}{} and {}", path(), top, pickle_name, name);
    top = name.substr(0, name.size() - pickle_name.size());
  }
  require(!top.empty(), "{}: holds no data.pkl; not a file of torch.save", path());
  require(!archive.contains(top + "/constants.pkl"),
          "{}: is a TorchScript program; wanted a dictionary of tensors", path());
  if (archive.contains(top + "/byteorder")) {
    const std::string_view order = text_of(archive.bytes(top + "/byteorder"));
    require(order == "little", "{}: its byte order is \"{}\"; supported: little", path(),
            printable(order));
  }
  ByteReader reader(archive.bytes(top + "/data.pkl"), path() + ": data.pkl");
  pickle_ = Pickle::read(reader);
  const std::string data = top + "/data/";
  for (auto entry = archive.entries().lower_bound(data);
       entry != archive.entries().end() && entry->first.starts_with(data); ++entry) {
    storages_.emplace(entry->first.substr(data.size()), entry->second);
  }
}

void TorchFile::read_legacy() {
  ByteReader reader(file_.bytes(), path());
  Pickle::read(reader);  // the magic number
  const Pickle protocol = Pickle::read(reader);
  require(protocol[protocol.root()].integer == legacy_protocol,
          "{}: its protocol is {}; supported: {}", path(), protocol[protocol.root()].integer,
          legacy_protocol);
  const Pickle system = Pickle::read(reader);
  for (const auto& [key, id] : torch_dictionary(system, system.root())) {
    require(key != "little_endian" || system[id].boolean, "{}: its byte order is big-endian",
            path());
  }
  pickle_ = Pickle::read(reader);

  // A storage's bytes follow its number of elements; of how many bytes each, only the ids say.
  std::map<std::string_view, TorchStorage> described;
  for (Id id = 0; id < pickle_.size(); ++id) {
    if (pickle_[id].kind != Kind::persistent) continue;
    const auto storage = torch_storage(pickle_, id, path());
    const auto [known, fresh] = described.emplace(storage.key, storage);
    require(fresh || known->second.dtype == storage.dtype, "{}: storage {} is {} and {}", path(),
            printable(storage.key), known->second.dtype, storage.dtype);
  }
  const Pickle keys = Pickle::read(reader);
  for (const Id id : keys[keys.root()].items) {
    const std::string key(keys[id].text);
    const auto found = described.find(key);
    require(found != described.end(), "{}: stores {}, which nothing uses", path(), printable(key));
    const auto count = reader.number<std::uint64_t>();
    const std::uint64_t bytes = torch_element_bytes(found->second.dtype);
    require(count <= reader.remaining() / bytes,
            "{}: storage {} has {} elements; the file is truncated", path(), printable(key), count);
    storages_.emplace(key, reader.take(count * bytes));
  }
}

void TorchFile::find_tensors(const std::string& part) {
  Id dictionary = pickle_.root();
  if (!part.empty()) {
    dictionary = Pickle::absent;
    for (const auto& [key, id] : torch_dictionary(pickle_, pickle_.root())) {
      if (key == part) dictionary = id;
    }
    require(dictionary != Pickle::absent, "{}: has no entry \"{}\"", path(), part);
  }
  require(is_torch_dictionary(pickle_, dictionary), "{}: {} is no dictionary of tensors", path(),
          part.empty() ? "what it holds" : part);
  std::string keys;
  for (const auto& [key, id] : torch_dictionary(pickle_, dictionary)) {
    if (is_torch_tensor(pickle_, id)) tensors_.insert_or_assign(std::string(key), id);
    if (keys.size() < 80) keys += (keys.empty() ? "" : ", ") + printable(key);
  }
  require(!tensors_.empty() || keys.empty(), "{}: holds no tensors by name; its entries: {}",
          path(), keys);
}

std::vector<std::string> TorchFile::names() const {
  std::vector<std::string> names;
  for (const auto& [name, id] : tensors_) names.push_back(name);
  return names;
}

TensorInfo TorchFile::info(const std::string& name) const {
  return torch_view(pickle_, tensors_.at(name), path() + ": " + printable(name));
}

Tensor TorchFile::tensor(const std::string& name) const {
  const std::string what = path() + ": " + printable(name);
  const auto found = tensors_.find(name);
  require(found != tensors_.end(), "{}: has no tensor {}", path(), name);
  const TorchView view = torch_view(pickle_, found->second, what);
  const DType type = representable_type(view, what);
  const Shape shape = representable_shape(view, what);
  if (view.empty()) return Tensor::zeros(shape, type);
  const auto storage = storages_.find(view.storage.key);
  require(storage != storages_.end(), "{}: its storage {} is missing", what,
          printable(view.storage.key));
  const std::size_t bytes = size_of(type);
  const std::uint64_t stored = storage->second.size() / bytes;
  require(view.storage.offset <= stored && view.storage.count <= stored - view.storage.offset,
          "{}: its storage {} should hold {} elements of {} bytes at {}; it has {} bytes", what,
          printable(view.storage.key), view.storage.count, bytes, view.storage.offset,
          storage->second.size());
  const std::byte* data = storage->second.data() + (view.storage.offset + view.offset) * bytes;
  if (view.row_major()) return tensor_over(data, shape, type, file_.owner());
  const Tensor gathered = Tensor::uninitialized(shape, type);
  gather(data, static_cast<std::byte*>(gathered.raw()), view, bytes);
  return gathered;
}

}  // namespace metala
