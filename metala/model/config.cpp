#include "metala/model/config.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "metala/base/error.h"
#include "metala/io/json.h"

namespace metala {
namespace {

using nlohmann::json;

constexpr std::int64_t largest_size = std::int64_t{1} << 24;  // of a width or a vocabulary
constexpr std::int64_t most_layers = 4096;

// Typed reading of one object's keys; remembers which were asked for.
class Reader {
 public:
  Reader(const json& object, const std::string& source) : object_(object), source_(source) {}

  bool has(const char* key) {
    known_.insert(key);
    return object_.contains(key) && !object_[key].is_null();
  }

  void integer(const char* key, std::int64_t& value) {
    if (!has(key)) return;
    // What is too large for a signed number is unsigned to the library, and would become negative.
    const auto& given = object_[key];
    constexpr std::uint64_t most = std::numeric_limits<std::int64_t>::max();
    require(given.is_number_integer() &&
                (!given.is_number_unsigned() || given.get<std::uint64_t>() <= most),
            "{}: {} is {}; wanted a whole number below 2^63", source_, key, shown(key));
    value = given.get<std::int64_t>();
  }

  void id(const char* key, std::int32_t& value) {
    std::int64_t wide = value;
    integer(key, wide);
    require(wide >= -1 && wide <= std::numeric_limits<std::int32_t>::max(),
            "{}: {} is {}; wanted a token id", source_, key, wide);
    value = static_cast<std::int32_t>(wide);
  }

  void number(const char* key, double& value) {
    if (!has(key)) return;
    require(object_[key].is_number(), "{}: {} is {}; wanted a number", source_, key, shown(key));
    value = object_[key].get<double>();
    require(std::isfinite(value), "{}: {} is not finite", source_, key);
  }

  void boolean(const char* key, bool& value) {
    if (!has(key)) return;
    require(object_[key].is_boolean(), "{}: {} is {}; wanted true or false", source_, key,
            shown(key));
    value = object_[key].get<bool>();
  }

  std::string text(const char* key, const std::string& otherwise) {
    if (!has(key)) return otherwise;
    require(object_[key].is_string(), "{}: {} is {}; wanted a string", source_, key, shown(key));
    return object_[key].get<std::string>();
  }

  // One of the words that `choices` maps to values.
  template <class T>
  void choice(const char* key, T& value, std::initializer_list<std::pair<const char*, T>> choices) {
    if (!has(key)) return;
    const std::string word = text(key, "");
    std::string supported;
    for (const auto& [name, meaning] : choices) {
      if (word == name) {
        value = meaning;
        return;
      }
      supported += supported.empty() ? name : std::string(", ") + name;
    }
    fail("{}: {} is \"{}\"; supported: {}", source_, key, word, supported);
  }

  const json& at(const char* key) const { return object_[key]; }

  std::string shown(const char* key) const {
    return object_[key].dump(-1, ' ', false, json::error_handler_t::replace).substr(0, 60);
  }

  std::vector<std::string> unknown() const {
    std::vector<std::string> keys;
    for (const auto& [key, value] : object_.items()) {
      if (!known_.contains(key)) keys.push_back(key);
    }
    return keys;
  }

 private:
  const json& object_;
  const std::string& source_;
  std::set<std::string> known_;
};

void read_ends(Reader& in, Config& c, const std::string& source) {
  if (!in.has("eos_token_id")) return;
  const json& ends = in.at("eos_token_id");
  c.eos_token_ids.clear();
  const auto add = [&](const json& id) {
    require(id.is_number_integer() && id.get<std::int64_t>() >= 0 &&
                id.get<std::int64_t>() <= std::numeric_limits<std::int32_t>::max(),
            "{}: eos_token_id is {}; wanted an id or a list of ids", source,
            in.shown("eos_token_id"));
    c.eos_token_ids.push_back(id.get<std::int32_t>());
  };
  if (ends.is_array()) {
    for (const auto& id : ends) add(id);
  } else {
    add(ends);
  }
}

void read_extensions(Reader& in, Config& c) {
  c.query_width = c.width / 2;
  in.integer("query_dim", c.query_width);
  in.integer("short_conv_width", c.short_conv_width);
  in.choice("key", c.key, {{"tied", KeyType::tied}, {"projected", KeyType::projected}});
  in.choice(
      "decay", c.decay,
      {{"dynamic", DecayType::dynamic}, {"fixed", DecayType::fixed}, {"none", DecayType::none}});
  in.number("decay_temperature", c.decay_temperature);
  in.boolean("self_augmentation", c.self_augmentation);
  in.boolean("bidirectional", c.bidirectional);
  in.choice("channel_mixer", c.channel_mixer,
            {{"glu", ChannelMixer::glu},
             {"mlp", ChannelMixer::mlp},
             {"identity", ChannelMixer::identity}});
  in.number("embedding_dropout", c.embedding_dropout);
  in.number("hidden_dropout", c.hidden_dropout);
}

double default_scale(const Config& c) {
  return 1 / std::sqrt(static_cast<double>(c.key_width()));
}

// Keys of the framework that mean nothing here.
bool inert(const std::string& key) {
  static const std::set<std::string> keys = {"architectures",
                                             "auto_map",
                                             "use_cache",
                                             "torch_dtype",
                                             "dtype",
                                             "transformers_version",
                                             "_name_or_path",
                                             "id2label",
                                             "label2id",
                                             "output_attentions",
                                             "output_hidden_states",
                                             "return_dict",
                                             "is_decoder",
                                             "is_encoder_decoder"};
  return keys.contains(key);
}

}  // namespace

ParsedConfig parse_config(const std::string& text, const std::string& source) {
  const json object = parse_json(text, source);
  require(object.is_object(), "{}: wanted a JSON object", source);
  Reader in(object, source);
  ParsedConfig parsed;
  Config& c = parsed.config;

  const std::string type = in.text("model_type", "metala");
  require(type == "metala", "{}: model_type is \"{}\"; wanted \"metala\"", source, type);
  in.integer("vocab_size", c.vocab_size);
  in.integer("decoder_embed_dim", c.width);
  in.integer("decoder_layers", c.layers);
  in.integer("decoder_attention_heads", c.heads);
  in.integer("glu_dim", c.glu_width);
  if (c.glu_width == -1) c.glu_width = c.width;
  try {
    c.glu_activation = glu::activation_named(in.text("glu_act", "silu"));
  } catch (const Error& e) {
    fail("{}: glu_act: {}", source, e.what());
  }
  in.boolean("bias", c.bias);
  c.norm = in.text("norm_type", "simplermsnorm") == "simplermsnorm" ? NormType::simplermsnorm
                                                                    : NormType::layernorm;
  bool no_scale = true;
  in.boolean("no_scale_embedding", no_scale);
  c.scale_embedding = !no_scale;
  in.boolean("tie_word_embeddings", c.tie_word_embeddings);
  in.id("pad_token_id", c.pad_token_id);
  in.id("bos_token_id", c.bos_token_id);
  read_ends(in, c, source);
  in.boolean("add_bos_token", c.add_bos_token);
  in.number("init_std", c.init_std);
  bool causal = true;
  in.boolean("causal", causal);
  require(causal,
          "{}: causal is false; the released code ignores that key. For a model that sees "
          "both sides set \"bidirectional\": true",
          source);
  read_extensions(in, c);
  check_config(c, source);
  c.attention_scale = default_scale(c);
  in.number("attention_scale", c.attention_scale);
  for (const auto& key : in.unknown()) {
    if (!inert(key)) parsed.notes.push_back(fmt::format("{}: key {} is ignored", source, key));
  }
  return parsed;
}

std::string config_json(const Config& c, const std::string& dtype) {
  nlohmann::ordered_json j;
  j["model_type"] = "metala";
  j["architectures"] = {"MetaLAForCausalLM"};
  j["vocab_size"] = c.vocab_size;
  j["decoder_embed_dim"] = c.width;
  j["decoder_layers"] = c.layers;
  j["decoder_attention_heads"] = c.heads;
  j["glu_dim"] = c.glu_width;
  j["glu_act"] = glu::name_of(c.glu_activation);
  j["bias"] = c.bias;
  j["norm_type"] = c.norm == NormType::simplermsnorm ? "simplermsnorm" : "layernorm";
  j["no_scale_embedding"] = !c.scale_embedding;
  j["causal"] = true;
  j["use_cache"] = true;
  j["tie_word_embeddings"] = c.tie_word_embeddings;
  j["pad_token_id"] = c.pad_token_id;
  j["bos_token_id"] = c.bos_token_id;
  if (c.eos_token_ids.size() == 1) {
    j["eos_token_id"] = c.eos_token_ids[0];
  } else {
    j["eos_token_id"] = c.eos_token_ids;
  }
  j["add_bos_token"] = c.add_bos_token;
  j["init_std"] = c.init_std;
  j["torch_dtype"] = dtype;

  if (c.query_width != c.width / 2) j["query_dim"] = c.query_width;
  if (c.short_conv_width != 4) j["short_conv_width"] = c.short_conv_width;
  if (c.key == KeyType::projected) j["key"] = "projected";
  if (c.decay == DecayType::fixed) j["decay"] = "fixed";
  if (c.decay == DecayType::none) j["decay"] = "none";
  if (c.decay_temperature != 16) j["decay_temperature"] = c.decay_temperature;
  if (c.attention_scale != default_scale(c)) j["attention_scale"] = c.attention_scale;
  if (!c.self_augmentation) j["self_augmentation"] = false;
  if (c.bidirectional) j["bidirectional"] = true;
  if (c.channel_mixer == ChannelMixer::mlp) j["channel_mixer"] = "mlp";
  if (c.channel_mixer == ChannelMixer::identity) j["channel_mixer"] = "identity";
  if (c.embedding_dropout != 0) j["embedding_dropout"] = c.embedding_dropout;
  if (c.hidden_dropout != 0) j["hidden_dropout"] = c.hidden_dropout;
  return j.dump(2) + "\n";
}

void check_config(const Config& c, const std::string& source) {
  const auto size = [&](const char* key, std::int64_t value, std::int64_t most) {
    require(value >= 1 && value <= most, "{}: {} is {}; wanted 1 to {}", source, key, value, most);
  };
  size("vocab_size", c.vocab_size, largest_size);
  size("decoder_embed_dim", c.width, largest_size);
  size("decoder_layers", c.layers, most_layers);
  size("decoder_attention_heads", c.heads, c.width);
  size("glu_dim", c.glu_width, largest_size);
  size("query_dim", c.query_width, largest_size);
  require(c.width % c.heads == 0 && c.query_width % c.heads == 0,
          "{}: decoder_attention_heads {} must divide decoder_embed_dim {} and query_dim {}",
          source, c.heads, c.width, c.query_width);
  require(c.key_width() <= 256 && c.value_width() <= 256,
          "{}: heads of key width {} and value width {}; supported: up to 256 each", source,
          c.key_width(), c.value_width());
  require(c.short_conv_width >= 0 && c.short_conv_width <= 16,
          "{}: short_conv_width is {}; wanted 0 (none) to 16", source, c.short_conv_width);
  require(c.decay != DecayType::none || c.key == KeyType::projected,
          "{}: decay \"none\" needs key \"projected\": a tied key is 1 - decay, so it would be 0",
          source);
  require(c.decay_temperature > 0 && std::isfinite(c.decay_temperature),
          "{}: decay_temperature is {}; wanted more than 0", source, c.decay_temperature);
  const auto probability = [&](const char* key, double p) {
    require(p >= 0 && p < 1, "{}: {} is {}; wanted 0 or more and less than 1", source, key, p);
  };
  probability("embedding_dropout", c.embedding_dropout);
  probability("hidden_dropout", c.hidden_dropout);
}

}  // namespace metala
