#include "metala/model/neox_config.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <string_view>

#include "metala/base/error.h"
#include "metala/io/printable.h"

namespace metala {
namespace {

class Reader {
 public:
  Reader(const YAML::Node& root, const std::string& source) : root_(root), source_(source) {}

  template <class T>
  void read(std::string_view key, const char* wanted, std::optional<T>& value) const {
    for (const auto& entry : root_) {
      if (!entry.first.IsScalar()) continue;
      std::string name = entry.first.Scalar();
      std::replace(name.begin(), name.end(), '-', '_');
      if (name != key || entry.second.IsNull()) continue;
      require(!value.has_value(), "{}: {} is given twice", source_, key);
      T read{};
      require(YAML::convert<T>::decode(entry.second, read), "{}: {} is {}; wanted {}", source_, key,
              entry.second.IsScalar() ? printable(entry.second.Scalar()) : "a list or mapping",
              wanted);
      value = read;
    }
  }

 private:
  const YAML::Node& root_;
  const std::string& source_;
};

YAML::Node load(const std::string& yaml, const std::string& source) {
  try {
    return YAML::Load(yaml);
  } catch (const YAML::Exception& error) {
    fail("{}: line {}: {}", source, error.mark.line + 1, printable(error.msg));
  }
}

}  // namespace

NeoxConfig parse_neox_config(const std::string& yaml, const std::string& source) {
  const YAML::Node root = load(yaml, source);
  require(root.IsMap(), "{}: wanted keys and values of a GPT-NeoX configuration", source);
  NeoxConfig config;
  const Reader in(root, source);
  in.read("num_layers", "a whole number", config.layers);
  in.read("hidden_size", "a whole number", config.width);
  in.read("num_attention_heads", "a whole number", config.heads);
  in.read("no_weight_tying", "true or false", config.untied);
  in.read("norm", "a word", config.norm);
  in.read("activation", "a word", config.activation);
  in.read("rms_norm_epsilon", "a number", config.rms_norm_epsilon);
  in.read("layernorm_epsilon", "a number", config.layernorm_epsilon);
  in.read("init_method_std", "a number", config.init_method_std);
  return config;
}

}  // namespace metala
