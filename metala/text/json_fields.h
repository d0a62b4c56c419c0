// Typed reading of the objects of a tokenizer file, with errors that name the field.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "metala/base/error.h"
#include "metala/io/printable.h"
#include "metala/text/unicode.h"

namespace metala {

class JsonFields {
 public:
  // `place` names the object in errors: "tokenizer.json: normalizer".
  JsonFields(const nlohmann::json& object, std::string place)
      : object_(object), place_(std::move(place)) {
    require(object.is_object(), "{} is not an object", place_);
  }

  const std::string& place() const { return place_; }
  std::string place_of(const std::string& key) const { return place_ + "." + key; }

  // Null where there is none, or it is null.
  const nlohmann::json* find(const char* key) const {
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }
  const nlohmann::json& at(const char* key) const {
    const nlohmann::json* found = find(key);
    require(found != nullptr, "{} has no \"{}\"", place_, key);
    return *found;
  }

  std::string text(const char* key) const {
    const nlohmann::json& found = at(key);
    require(found.is_string(), "{} is not a text", place_of(key));
    return found.get<std::string>();
  }
  std::string text(const char* key, const std::string& otherwise) const {
    return find(key) == nullptr ? otherwise : text(key);
  }
  // A text of one character.
  std::string character(const char* key, const std::string& otherwise = "") const {
    std::string found = text(key, otherwise);
    require(!found.empty() && unicode::code_point(found, 0).bytes == found.size(),
            "{} is not one character", place_of(key));
    return found;
  }
  bool flag(const char* key, bool otherwise) const {
    const nlohmann::json* found = find(key);
    if (found == nullptr) return otherwise;
    require(found->is_boolean(), "{} is not true or false", place_of(key));
    return found->get<bool>();
  }
  // A whole number of 0 or more that an id can be.
  std::int32_t number(const char* key) const {
    const nlohmann::json& found = at(key);
    const bool whole = found.is_number_unsigned() && found.get<std::uint64_t>() < (1ull << 31);
    require(whole, "{} is not a whole number from 0 to 2^31 - 1", place_of(key));
    return found.get<std::int32_t>();
  }
  const nlohmann::json& list(const char* key) const {
    const nlohmann::json& found = at(key);
    require(found.is_array(), "{} is not a list", place_of(key));
    return found;
  }

  // "type", which every component has.
  std::string type() const { return text("type"); }
  [[noreturn]] void refuse_type(const char* supported) const {
    fail("{} is of type \"{}\", which metala does not read; it reads {}", place_, printable(type()),
         supported);
  }

 private:
  const nlohmann::json& object_;
  std::string place_;
};

}  // namespace metala
