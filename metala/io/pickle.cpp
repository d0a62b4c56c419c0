#include "metala/io/pickle.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "metala/base/error.h"
#include "metala/io/printable.h"

namespace metala {

class PickleMachine {
 public:
  explicit PickleMachine(ByteReader& reader) : reader_(reader) {}

  Pickle run() {
    for (;;) {
      at_ = reader_.offset();
      const auto opcode = reader_.number<std::uint8_t>();
      if (opcode == '.') break;
      if (!literal(opcode) && !container(opcode) && !object(opcode)) {
        fail("{}: unknown pickle opcode {:#04x} at byte {}", reader_.source(), opcode, at_);
      }
    }
    pickle_.root_ = pop();
    check(stack_.empty(), "leaves values behind");
    return std::move(pickle_);
  }

 private:
  using Id = Pickle::Id;
  using Kind = Pickle::Kind;
  using Value = Pickle::Value;

  void check(bool holds, std::string_view what) const {
    require(holds, "{}: the pickle's opcode at byte {} {}", reader_.source(), at_, what);
  }

  Value& value(Id id) { return pickle_.values_[id]; }

  Value& push(Kind kind) {
    check(pickle_.values_.size() < Pickle::most_values, "makes more values than are read");
    stack_.push_back(static_cast<Id>(pickle_.values_.size()));
    Value& made = pickle_.values_.emplace_back();
    made.kind = kind;
    return made;
  }

  // Values above the last mark only: those below belong to what is being collected around it.
  Id pop() {
    check(stack_.size() > (marks_.empty() ? 0 : marks_.back()), "finds no value");
    const Id id = stack_.back();
    stack_.pop_back();
    return id;
  }

  Id top() {
    const Id id = pop();
    stack_.push_back(id);
    return id;
  }

  // Takes off the last mark and what lies above it.
  std::vector<Id> pop_mark() {
    check(!marks_.empty(), "finds no mark");
    const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<Id> items(begin, stack_.end());
    stack_.erase(begin, stack_.end());
    marks_.pop_back();
    return items;
  }

  void push_integer(std::int64_t integer) { push(Kind::integer).integer = integer; }
  void push_boolean(bool boolean) { push(Kind::boolean).boolean = boolean; }
  void push_text(Kind kind, std::uint64_t length) { push(kind).text = reader_.text(length); }

  template <class Length>
  std::uint64_t length() {
    const auto n = reader_.number<Length>();
    check(n >= 0, "has a negative length");
    return static_cast<std::uint64_t>(n);
  }

  void push_long(std::uint64_t length) {
    const std::string_view bytes = reader_.text(length);
    if (bytes.size() > 8) {
      push(Kind::long_integer).text = bytes;
      return;
    }
    std::uint64_t bits = !bytes.empty() && (bytes.back() & 0x80) != 0 ? ~std::uint64_t{0} : 0;
    for (std::size_t i = bytes.size(); i-- > 0;) {
      bits = (bits << 8) | static_cast<unsigned char>(bytes[i]);
    }
    push_integer(static_cast<std::int64_t>(bits));
  }

  void push_real() {
    std::uint64_t bits = 0;
    for (const std::byte b : reader_.take(8)) bits = (bits << 8) | static_cast<std::uint8_t>(b);
    push(Kind::real).real = std::bit_cast<double>(bits);
  }

  // Everything that stands in the stream as it is.
  bool literal(std::uint8_t opcode) {
    switch (opcode) {
      case 0x80:
        check(reader_.number<std::uint8_t>() <= 5, "names a protocol beyond 5");
        return true;
      case 0x95: {
        const auto frame = reader_.number<std::uint64_t>();
        check(frame <= reader_.remaining(), "frames more bytes than there are");
        return true;
      }
      case 'N':
        push(Kind::none);
        return true;
      case 0x88:
      case 0x89:
        push_boolean(opcode == 0x88);
        return true;
      case 'J':
        push_integer(reader_.number<std::int32_t>());
        return true;
      case 'K':
        push_integer(reader_.number<std::uint8_t>());
        return true;
      case 'M':
        push_integer(reader_.number<std::uint16_t>());
        return true;
      case 0x8a:
        push_long(length<std::uint8_t>());
        return true;
      case 0x8b:
        push_long(length<std::int32_t>());
        return true;
      case 'G':
        push_real();
        return true;
      case 'U':
      case 0x8c:
        push_text(Kind::string, length<std::uint8_t>());
        return true;
      case 'T':
        push_text(Kind::string, length<std::int32_t>());
        return true;
      case 'X':
        push_text(Kind::string, length<std::uint32_t>());
        return true;
      case 0x8d:
        push_text(Kind::string, length<std::uint64_t>());
        return true;
      case 'C':
        push_text(Kind::bytes, length<std::uint8_t>());
        return true;
      case 'B':
        push_text(Kind::bytes, length<std::uint32_t>());
        return true;
      case 0x8e:
      case 0x96:
        push_text(Kind::bytes, length<std::uint64_t>());
        return true;
      default:
        return false;
    }
  }

  void collect(Kind kind, std::vector<Id> items) { push(kind).items = std::move(items); }

  void collect_last(std::size_t count) {
    std::vector<Id> items(count);
    for (std::size_t i = count; i-- > 0;) items[i] = pop();
    collect(Kind::tuple, std::move(items));
  }

  // A list or set, or an object that is one to Python.
  void append(const std::vector<Id>& items, Kind kind) {
    Value& target = value(top());
    check(target.kind == kind || target.kind == Kind::call, "adds to what holds no items");
    target.items.insert(target.items.end(), items.begin(), items.end());
  }

  void set_pairs(const std::vector<Id>& items) {
    check(items.size() % 2 == 0, "finds a key without a value");
    Value& target = value(top());
    check(target.kind == Kind::dict || target.kind == Kind::call, "sets a key of what has none");
    for (std::size_t i = 0; i < items.size(); i += 2) {
      target.pairs.emplace_back(items[i], items[i + 1]);
    }
  }

  // Marks, tuples, lists, dicts and sets.
  bool container(std::uint8_t opcode) {
    switch (opcode) {
      case '(':
        marks_.push_back(stack_.size());
        return true;
      case '0':
        if (!marks_.empty() && marks_.back() == stack_.size()) {
          marks_.pop_back();
        } else {
          pop();
        }
        return true;
      case '1':
        pop_mark();
        return true;
      case '2':
        stack_.push_back(top());
        return true;
      case ')':
        collect(Kind::tuple, {});
        return true;
      case 't':
        collect(Kind::tuple, pop_mark());
        return true;
      case 0x85:
      case 0x86:
      case 0x87:
        collect_last(opcode - std::size_t{0x84});
        return true;
      case ']':
        collect(Kind::list, {});
        return true;
      case 'l':
        collect(Kind::list, pop_mark());
        return true;
      case 'a':
        append({pop()}, Kind::list);
        return true;
      case 'e':
        append(pop_mark(), Kind::list);
        return true;
      case '}':
        push(Kind::dict);
        return true;
      case 'd': {
        const auto items = pop_mark();
        push(Kind::dict);
        set_pairs(items);
        return true;
      }
      case 's': {
        const Id set = pop();
        set_pairs({pop(), set});
        return true;
      }
      case 'u':
        set_pairs(pop_mark());
        return true;
      case 0x8f:
        collect(Kind::set, {});
        return true;
      case 0x90:
        append(pop_mark(), Kind::set);
        return true;
      case 0x91:
        collect(Kind::set, pop_mark());
        return true;
      default:
        return false;
    }
  }

  std::string_view line() {
    const std::size_t longest = std::min(reader_.remaining(), Pickle::longest_global + 1);
    const std::size_t start = reader_.offset();
    const std::size_t end = reader_.text(longest).find('\n');
    check(end != std::string_view::npos, "names a global without an end");
    reader_.seek(start);
    const std::string_view text = reader_.text(end);
    reader_.take(1);
    return text;
  }

  void push_global(std::string_view module, std::string_view name) {
    check(std::max(module.size(), name.size()) <= Pickle::longest_global,
          "names a global at too great a length");
    Value& made = push(Kind::global);
    made.module = module;
    made.text = name;
  }

  void push_call(Id callee, Id arguments, Id keywords = Pickle::absent) {
    check(value(arguments).kind == Kind::tuple, "calls something with what is no tuple");
    Value& made = push(Kind::call);
    made.callee = callee;
    made.arguments = arguments;
    made.keywords = keywords;
  }

  void remember(std::uint64_t index) {
    check(index < Pickle::most_memos, "remembers a value under too large a number");
    const Id id = top();
    if (index >= memo_.size()) memo_.resize(index + 1, Pickle::absent);
    memo_[index] = id;
    ++remembered_;
  }

  void recall(std::uint64_t index) {
    check(index < memo_.size() && memo_[index] != Pickle::absent,
          "asks for a value that was not remembered");
    stack_.push_back(memo_[index]);
  }

  // Globals, calls, the memo and persistent ids.
  bool object(std::uint8_t opcode) {
    switch (opcode) {
      case 'c': {
        const auto module = line();
        push_global(module, line());
        return true;
      }
      case 0x93: {
        const Value& name = value(pop());
        const Value& module = value(pop());
        check(name.kind == Kind::string && module.kind == Kind::string,
              "names a global by what is no string");
        push_global(module.text, name.text);
        return true;
      }
      case 'R':
      case 0x81: {
        const Id arguments = pop();
        push_call(pop(), arguments);
        return true;
      }
      case 0x92: {
        const Id keywords = pop();
        const Id arguments = pop();
        push_call(pop(), arguments, keywords);
        return true;
      }
      case 'b': {
        const Id state = pop();
        Value& target = value(top());
        check(target.kind == Kind::call, "gives a state to what is no object");
        target.state = state;
        return true;
      }
      case 'Q': {
        const Id id = pop();
        push(Kind::persistent).callee = id;
        return true;
      }
      case 'q':
        remember(reader_.number<std::uint8_t>());
        return true;
      case 'r':
        remember(reader_.number<std::uint32_t>());
        return true;
      case 0x94:
        remember(remembered_);
        return true;
      case 'h':
        recall(reader_.number<std::uint8_t>());
        return true;
      case 'j':
        recall(reader_.number<std::uint32_t>());
        return true;
      default:
        return false;
    }
  }

  ByteReader& reader_;
  Pickle pickle_;
  std::vector<Id> stack_;
  std::vector<std::size_t> marks_;  // sizes of the stack
  std::vector<Id> memo_;
  std::uint64_t remembered_ = 0;
  std::size_t at_ = 0;
};

Pickle Pickle::read(ByteReader& reader) {
  return PickleMachine(reader).run();
}

bool Pickle::is_global(Id id, std::string_view module, std::string_view name) const {
  if (id == absent) return false;
  const Value& value = values_[id];
  return value.kind == Kind::global && value.module == module && value.text == name;
}

}  // namespace metala
