#include "metala/generate/generation_config.h"

#include <filesystem>
#include <limits>

#include "metala/base/error.h"
#include "metala/io/file.h"
#include "metala/io/json.h"

namespace metala {
namespace {

using nlohmann::json;

// Typed reading of the keys of a file.
class Keys {
 public:
  Keys(const json& object, const std::string& source) : object_(object), source_(source) {}

  void read(const char* key, std::optional<bool>& value) const {
    const json* given = find(key);
    if (given == nullptr) return;
    wanted(given->is_boolean(), key, "true or false");
    value = given->get<bool>();
  }

  // A number that `holds`.
  template <class Holds>
  void read(const char* key, std::optional<double>& value, const char* what, Holds holds) const {
    const json* given = find(key);
    if (given == nullptr) return;
    wanted(given->is_number() && holds(given->get<double>()), key, what);
    value = given->get<double>();
  }

  // A whole number from `least` to what T can hold.
  template <class T>
  void read(const char* key, std::optional<T>& value, T least, const char* what) const {
    if (const json* given = find(key)) value = whole(*given, key, least, what);
  }

  void read_ids(const char* key, std::optional<std::vector<std::int32_t>>& value) const {
    const json* given = find(key);
    if (given == nullptr) return;
    const char* const what = "a token id or a list of them";
    std::vector<std::int32_t> ids;
    if (given->is_array()) {
      for (const auto& id : *given) ids.push_back(whole<std::int32_t>(id, key, 0, what));
    } else {
      ids.push_back(whole<std::int32_t>(*given, key, 0, what));
    }
    value = std::move(ids);
  }

 private:
  const json* find(const char* key) const {
    const auto place = object_.find(key);
    return place == object_.end() || place->is_null() ? nullptr : &*place;
  }

  void wanted(bool holds, const char* key, const char* what) const {
    require(holds, "{}: {} is {}; wanted {}", source_, key,
            object_[key].dump(-1, ' ', false, json::error_handler_t::replace).substr(0, 60), what);
  }

  template <class T>
  T whole(const json& given, const char* key, T least, const char* what) const {
    // What is too large for a signed number is unsigned to the library.
    const bool fits =
        given.is_number_integer() &&
        (!given.is_number_unsigned() ||
         given.get<std::uint64_t>() <= static_cast<std::uint64_t>(std::numeric_limits<T>::max())) &&
        given.get<std::int64_t>() >= least;
    wanted(fits, key, what);
    return static_cast<T>(given.get<std::int64_t>());
  }

  const json& object_;
  const std::string& source_;
};

template <class T, class U>
void replace(T& value, const std::optional<U>& given) {
  if (given) value = *given;
}

}  // namespace

void GenerationConfig::apply_to(GenerationOptions& options) const {
  sample::Options& sampling = options.sampling;
  if (do_sample == false) {
    sampling.temperature = 0;
  } else {
    replace(sampling.temperature, temperature);
  }
  replace(sampling.top_k, top_k);
  replace(sampling.top_p, top_p);
  replace(sampling.min_p, min_p);
  replace(sampling.repetition_penalty, repetition_penalty);
  replace(options.max_tokens, max_new_tokens);
  replace(options.end_ids, end_ids);
}

GenerationConfig parse_generation_config(const std::string& text, const std::string& source) {
  const json object = parse_json(text, source);
  require(object.is_object(), "{}: not a JSON object", source);
  const Keys keys(object, source);
  GenerationConfig c;
  keys.read_ids("eos_token_id", c.end_ids);
  keys.read("bos_token_id", c.bos_token_id, 0, "a token id");
  keys.read("pad_token_id", c.pad_token_id, 0, "a token id");
  keys.read("do_sample", c.do_sample);
  keys.read("temperature", c.temperature, "a number of 0 or more", [](double x) { return x >= 0; });
  keys.read("top_k", c.top_k, 0, "a whole number of 0 (all) or more");
  keys.read("top_p", c.top_p, "a number above 0, at most 1",
            [](double x) { return x > 0 && x <= 1; });
  keys.read("min_p", c.min_p, "a number from 0 to 1", [](double x) { return x >= 0 && x <= 1; });
  keys.read("repetition_penalty", c.repetition_penalty, "a number above 0",
            [](double x) { return x > 0; });
  keys.read("max_new_tokens", c.max_new_tokens, std::int64_t{0}, "a whole number of 0 or more");
  return c;
}

GenerationConfig load_generation_config(const std::string& folder) {
  constexpr std::size_t longest = std::size_t{1} << 20;
  const std::string path = folder + "/generation_config.json";
  if (!std::filesystem::exists(path)) return {};
  return parse_generation_config(read_file(path, longest), path);
}

}  // namespace metala
