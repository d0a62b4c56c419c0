// Pickle: Python's serialized objects as a graph of inert values.
//
// Nothing is looked up, imported or called. A global is a pair of words, a call is a value that
// says what would be called with what; whoever reads the graph interprets the few that it knows.
// Python: https://docs.python.org/3/library/pickletools.html
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "metala/io/byte_reader.h"

namespace metala {

class Pickle {
 public:
  using Id = std::uint32_t;  // of a value in this pickle
  static constexpr Id absent = 0xffffffff;

  enum class Kind {
    none,
    boolean,
    integer,
    long_integer,  // beyond 64 bits: `text` is its two's complement, little-endian
    real,
    bytes,
    string,
    tuple,
    list,
    dict,
    set,
    global,      // `module` and `text`, its name
    call,        // `callee` with `arguments`: a function or a class
    persistent,  // `callee` is the id by which the file's writer stored something elsewhere
  };

  // Lists, dicts and calls may hold themselves: walk them with a limit on depth.
  struct Value {
    Kind kind = Kind::none;
    bool boolean = false;
    std::int64_t integer = 0;
    double real = 0;
    std::string_view text;    // views of the bytes read from
    std::string_view module;  //
    std::vector<Id> items;    // tuple, list, set; what a call's object has had appended
    std::vector<std::pair<Id, Id>> pairs;  // dict, in order; what a call's object has had set
    Id callee = absent, arguments = absent, keywords = absent;
    Id state = absent;  // what __setstate__ of a call's object would be given
  };

  static constexpr std::size_t most_values = std::size_t{1} << 20;
  static constexpr std::size_t most_memos = std::size_t{1} << 20;
  static constexpr std::size_t longest_global = 1024;  // bytes of a module's or a global's name

  // Reads one pickle, through its STOP, and leaves the reader behind it. The bytes must outlive the
  // result. Throws Error with the reader's source and the offset for an opcode that is unknown or
  // finds the wrong values, and for pickles beyond the limits above.
  static Pickle read(ByteReader& reader);

  Id root() const { return root_; }
  // Ids run from 0 to size() - 1, parts mostly before what holds them.
  Id size() const { return static_cast<Id>(values_.size()); }
  const Value& operator[](Id id) const { return values_[id]; }

  bool is_global(Id id, std::string_view module, std::string_view name) const;

 private:
  friend class PickleMachine;
  std::vector<Value> values_;
  Id root_ = absent;
};

}  // namespace metala
