#include "metala/io/torch_tensors.h"

#include <limits>
#include <map>

#include "metala/base/error.h"
#include "metala/io/printable.h"

namespace metala {
namespace {

using Id = Pickle::Id;
using Kind = Pickle::Kind;

constexpr int deepest_wrapping = 8;  // parameters and subclasses around a tensor

struct Type {
  std::string_view storage;  // torch's class of typed storages; "" where there is none
  std::string_view dtype;    // torch's global
  std::string_view word;
  std::uint64_t bytes;
};

constexpr Type types[] = {
    {"FloatStorage", "float32", "F32", 4},
    {"DoubleStorage", "float64", "F64", 8},
    {"HalfStorage", "float16", "F16", 2},
    {"BFloat16Storage", "bfloat16", "BF16", 2},
    {"LongStorage", "int64", "I64", 8},
    {"IntStorage", "int32", "I32", 4},
    {"ShortStorage", "int16", "I16", 2},
    {"CharStorage", "int8", "I8", 1},
    {"ByteStorage", "uint8", "U8", 1},
    {"BoolStorage", "bool", "BOOL", 1},
    {"ComplexFloatStorage", "complex64", "C64", 8},
    {"ComplexDoubleStorage", "complex128", "C128", 16},
    {"", "uint16", "U16", 2},
    {"", "uint32", "U32", 4},
    {"", "uint64", "U64", 8},
    {"", "float8_e4m3fn", "F8_E4M3", 1},
    {"", "float8_e5m2", "F8_E5M2", 1},
    {"", "float8_e4m3fnuz", "F8_E4M3FNUZ", 1},
    {"", "float8_e5m2fnuz", "F8_E5M2FNUZ", 1},
    {"", "float8_e8m0fnu", "F8_E8M0", 1},
};

std::string dotted(const Pickle::Value& global) {
  return printable(fmt::format("{}.{}", global.module, global.text));
}

std::string described(const Pickle& pickle, Id id) {
  const auto& value = pickle[id];
  switch (value.kind) {
    case Kind::global:
      return dotted(value);
    case Kind::call: {
      const auto& callee = pickle[value.callee];
      return callee.kind == Kind::global ? "a call of " + dotted(callee) : "a call";
    }
    case Kind::tuple:
    case Kind::list:
      return "a list";
    case Kind::dict:
      return "a dictionary";
    case Kind::string:
      return "\"" + printable(value.text) + "\"";
    default:
      return "a plain value";
  }
}

std::uint64_t count_of(const Pickle& pickle, Id id, const std::string& what) {
  const auto& value = pickle[id];
  require(value.kind == Kind::integer && value.integer >= 0,
          "{} is {}; wanted a number of 0 or more", what,
          value.kind == Kind::integer ? std::to_string(value.integer) : described(pickle, id));
  return static_cast<std::uint64_t>(value.integer);
}

const std::vector<Id>& tuple_of(const Pickle& pickle, Id id, std::size_t least,
                                const std::string& what) {
  const auto& value = pickle[id];
  require(value.kind == Kind::tuple && value.items.size() >= least,
          "{} is not a tuple of {} or more values", what, least);
  return value.items;
}

// A tuple of sizes or strides, or torch.Size of one.
std::vector<std::int64_t> counts_of(const Pickle& pickle, Id id, const std::string& what) {
  if (pickle[id].kind == Kind::call && pickle.is_global(pickle[id].callee, "torch", "Size")) {
    id = tuple_of(pickle, pickle[id].arguments, 1, what)[0];
  }
  std::vector<std::int64_t> counts;
  for (const Id item : tuple_of(pickle, id, 0, what)) {
    counts.push_back(static_cast<std::int64_t>(count_of(pickle, item, what)));
  }
  return counts;
}

const Type* type_of_global(const Pickle& pickle, Id id, std::string_view Type::*name) {
  for (const Type& type : types) {
    if (!(type.*name).empty() && pickle.is_global(id, "torch", type.*name)) return &type;
  }
  return nullptr;
}

// a * b + c, refused beyond 64 bits.
std::uint64_t multiply_add(std::uint64_t a, std::uint64_t b, std::uint64_t c,
                           const std::string& what) {
  std::uint64_t product = 0, sum = 0;
  require(!__builtin_mul_overflow(a, b, &product) && !__builtin_add_overflow(product, c, &sum),
          "{}: its sizes and strides lead beyond 64 bits", what);
  return sum;
}

void check_extent(const TorchView& view, const std::string& what) {
  require(view.shape.size() == view.strides.size(), "{}: has {} sizes and {} strides", what,
          view.shape.size(), view.strides.size());
  std::uint64_t elements = 1;
  std::uint64_t last = view.offset;
  const bool empty = view.empty();
  for (std::size_t i = 0; i < view.shape.size() && !empty; ++i) {
    const auto size = static_cast<std::uint64_t>(view.shape[i]);
    elements = multiply_add(elements, size, 0, what);
    last = multiply_add(size - 1, static_cast<std::uint64_t>(view.strides[i]), last, what);
  }
  if (empty) return;
  require(last < view.storage.count, "{}: reaches element {} of a storage of {}", what, last,
          view.storage.count);
  require(elements <= view.storage.count,
          "{}: repeats its storage's {} elements {} times over; save a contiguous copy", what,
          view.storage.count, elements);
}

class Interpreter {
 public:
  Interpreter(const Pickle& pickle, const std::string& what) : pickle_(pickle), what_(what) {}

  TorchView tensor(Id id, int depth = 0) const {
    require(depth <= deepest_wrapping, "{}: is wrapped in more than {} calls", what_,
            deepest_wrapping);
    const auto& value = pickle_[id];
    require(value.kind == Kind::call && value.keywords == Pickle::absent, "{}: is {}, not a tensor",
            what_, described(pickle_, id));
    return call(value.callee, value.arguments, depth);
  }

 private:
  TorchView call(Id callee, Id arguments, int depth) const {
    const auto is = [&](std::string_view name) {
      return pickle_.is_global(callee, "torch._utils", name);
    };
    const auto at_least = [&](std::size_t count) -> const std::vector<Id>& {
      return tuple_of(pickle_, arguments, count, what_ + ": what its call is given");
    };
    if (is("_rebuild_tensor") || is("_rebuild_tensor_v2")) return rebuilt(at_least(4), nullptr);
    if (is("_rebuild_tensor_v3")) {
      const auto& given = at_least(7);
      const Type* type = type_of_global(pickle_, given[6], &Type::dtype);
      require(type != nullptr, "{}: has the unknown type {}", what_, described(pickle_, given[6]));
      return rebuilt(given, type);
    }
    if (is("_rebuild_parameter") || is("_rebuild_parameter_with_state")) {
      return tensor(at_least(1)[0], depth + 1);
    }
    if (pickle_.is_global(callee, "torch._tensor", "_rebuild_from_type_v2")) {
      require(depth < deepest_wrapping, "{}: is wrapped in more than {} calls", what_,
              deepest_wrapping);
      const auto& given = at_least(3);
      return call(given[0], given[2], depth + 1);
    }
    fail("{}: needs a call of {}, which is not interpreted", what_, described(pickle_, callee));
  }

  // (storage, offset, sizes, strides, ...), seen as `type` where the storage has none or another.
  TorchView rebuilt(const std::vector<Id>& given, const Type* type) const {
    TorchView view;
    view.storage = torch_storage(pickle_, given[0], what_);
    if (type != nullptr) {
      auto& storage = view.storage;
      const std::uint64_t before = storage.dtype.empty() ? 1 : torch_element_bytes(storage.dtype);
      const std::uint64_t start = multiply_add(storage.offset, before, 0, what_);
      const std::uint64_t bytes = multiply_add(storage.count, before, 0, what_);
      require(start % type->bytes == 0, "{}: starts within an element", what_);
      storage.offset = start / type->bytes;
      storage.count = bytes / type->bytes;
      storage.dtype = type->word;
    }
    require(!view.storage.dtype.empty(), "{}: its storage has no type", what_);
    view.dtype = view.storage.dtype;
    view.offset = count_of(pickle_, given[1], what_ + ": its offset");
    view.shape = counts_of(pickle_, given[2], what_ + ": a size");
    view.strides = counts_of(pickle_, given[3], what_ + ": a stride");
    check_extent(view, what_);
    return view;
  }

  const Pickle& pickle_;
  const std::string& what_;
};

}  // namespace

bool TorchView::empty() const {
  for (const std::int64_t size : shape) {
    if (size == 0) return true;
  }
  return false;
}

bool TorchView::row_major() const {
  if (empty()) return true;
  std::int64_t wanted = 1;
  for (std::size_t i = shape.size(); i-- > 0;) {
    if (shape[i] != 1 && strides[i] != wanted) return false;
    wanted *= shape[i];
  }
  return true;
}

std::uint64_t torch_element_bytes(const std::string& dtype) {
  for (const Type& type : types) {
    if (type.word == dtype) return type.bytes;
  }
  return 1;
}

bool is_torch_tensor(const Pickle& pickle, Id id) {
  const auto& value = pickle[id];
  if (value.kind != Kind::call) return false;
  for (const char* name : {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3",
                           "_rebuild_parameter", "_rebuild_parameter_with_state"}) {
    if (pickle.is_global(value.callee, "torch._utils", name)) return true;
  }
  return pickle.is_global(value.callee, "torch._tensor", "_rebuild_from_type_v2");
}

TorchView torch_view(const Pickle& pickle, Id id, const std::string& what) {
  return Interpreter(pickle, what).tensor(id);
}

TorchStorage torch_storage(const Pickle& pickle, Id id, const std::string& what) {
  require(pickle[id].kind == Kind::persistent, "{}: its storage is {}", what,
          described(pickle, id));
  const auto& parts = tuple_of(pickle, pickle[id].callee, 5, what + ": its storage");
  require(pickle[parts[0]].text == "storage" && pickle[parts[2]].kind == Kind::string,
          "{}: its storage is not ('storage', type, key, location, count)", what);
  TorchStorage storage;
  storage.key = pickle[parts[2]].text;
  if (!pickle.is_global(parts[1], "torch.storage", "UntypedStorage")) {
    const Type* type = type_of_global(pickle, parts[1], &Type::storage);
    require(type != nullptr, "{}: its storage has the unknown type {}", what,
            described(pickle, parts[1]));
    storage.dtype = type->word;
  }
  storage.count = count_of(pickle, parts[4], what + ": its storage's size");
  if (parts.size() > 5 && pickle[parts[5]].kind != Kind::none) {  // (key, offset, count) within it
    const auto& view = tuple_of(pickle, parts[5], 3, what + ": its storage's view");
    storage.offset = count_of(pickle, view[1], what + ": its storage's offset");
    const std::uint64_t count = count_of(pickle, view[2], what + ": its storage's size");
    require(storage.offset <= storage.count && count <= storage.count - storage.offset,
            "{}: {} elements at {} of a storage of {}", what, count, storage.offset, storage.count);
    storage.count = count;
  }
  return storage;
}

bool is_torch_dictionary(const Pickle& pickle, Id id) {
  const auto& value = pickle[id];
  return value.kind == Kind::dict ||
         (value.kind == Kind::call && pickle.is_global(value.callee, "collections", "OrderedDict"));
}

std::vector<std::pair<std::string_view, Id>> torch_dictionary(const Pickle& pickle, Id id) {
  std::vector<std::pair<std::string_view, Id>> entries;
  const auto& value = pickle[id];
  const auto add = [&](Id key, Id item) {
    if (pickle[key].kind == Kind::string) entries.emplace_back(pickle[key].text, item);
  };
  if (!is_torch_dictionary(pickle, id)) return entries;
  if (value.kind == Kind::call) {
    // Python 2 gives a list of pairs to the call, later versions set them afterwards.
    const auto& given = pickle[value.arguments].items;
    for (const Id pair : given.empty() ? std::vector<Id>{} : pickle[given[0]].items) {
      const auto& parts = pickle[pair].items;
      if (parts.size() == 2) add(parts[0], parts[1]);
    }
  }
  for (const auto& [key, item] : value.pairs) add(key, item);
  return entries;
}

}  // namespace metala
