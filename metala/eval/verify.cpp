#include "metala/eval/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string>

#include "metala/io/safetensors.h"
#include "metala/model/checkpoint.h"
#include "metala/model/language_model.h"

namespace metala {
namespace {

constexpr double greedy_margin_share = 1e-3;

// The real tokens of a padded batch, laid end to end.
struct Prompt {
  std::vector<std::int32_t> ids;
  std::vector<std::int64_t> offsets = {0};
  std::vector<std::int64_t> rows;  // row of [B * T] that each token comes from

  Batch batch() const { return {ids, offsets}; }
};

class Verification {
 public:
  Verification(const std::string& folder, const VerifyOptions& options)
      : options_(options),
        path_(folder + "/expected.safetensors"),
        expected_(SafetensorsFile::open(path_)),
        arena_(options.device) {
    const Checkpoint checkpoint = load_checkpoint(folder);
    config_ = checkpoint.config;
    config_.embedding_dropout = config_.hidden_dropout = 0;  // training's noise is not the model
    parameters_ = Parameters(checkpoint.tensors).cast(options.dtype);
    if (options.device.is_cuda()) {
      require(options.dtype == DType::f32, "verify: {} on {}; wanted f32", name_of(options.dtype),
              options.device.text());
      parameters_ = parameters_.on(options.device, options.dtype);
    }
    check_names();
    read_prompt();
  }

  VerifyReport run() {
    if (expected_.contains("loss")) {
      compare_training();
    } else {
      compare_logits_and_states(LanguageModel(config_, parameters_));
    }
    compare_greedy();
    report_.passed = report_.greedy_equal == report_.greedy_compared;
    for (const auto& c : report_.comparisons) report_.passed = report_.passed && c.within;
    return report_;
  }

 private:
  // A tensor that nothing is compared with would count as right.
  void check_names() const {
    std::set<std::string> known = {"input_ids", "attention_mask", "logits", "loss"};
    for (std::int64_t i = 0; i < config_.layers && !config_.bidirectional; ++i) {
      known.insert(fmt::format("state.{}", i));
      if (config_.short_conv_width > 0) known.insert(fmt::format("conv_state.{}", i));
    }
    if (!config_.bidirectional) known.insert({"greedy", "greedy_margin"});
    if (expected_.contains("loss")) {
      for (const auto& [name, value] : parameters_.tensors()) known.insert("grad." + name);
    }
    for (const auto& [name, info] : expected_.tensors()) {
      require(known.contains(name),
              "{}: {} is nothing that this model is compared with{}; correct its name or remove it",
              path_, name,
              name.starts_with("grad.") && !expected_.contains("loss") ? " without a loss" : "");
    }
  }

  void read_prompt() {
    const Tensor ids = expected_.tensor("input_ids");
    require(ids.rank() == 2 && ids.dtype() == DType::i64, "{}: input_ids must be i64 [B, T]",
            path_);
    Tensor mask;
    if (expected_.contains("attention_mask")) {
      mask = expected_.tensor("attention_mask");
      check_tensor(path_ + ": attention_mask", mask, ids.shape(), DType::i64);
    }
    length_ = ids.size(1);
    for (std::int64_t row = 0; row < ids.count(); ++row) {
      if (!mask.defined() || mask.data<std::int64_t>()[row] != 0) {
        const std::int64_t id = ids.data<std::int64_t>()[row];
        require(id >= 0 && id < config_.vocab_size, "{}: input_ids holds {}; vocab_size is {}",
                path_, id, config_.vocab_size);
        prompt_.ids.push_back(static_cast<std::int32_t>(id));
        prompt_.rows.push_back(row);
      }
      if ((row + 1) % length_ == 0) {
        prompt_.offsets.push_back(static_cast<std::int64_t>(prompt_.ids.size()));
      }
    }
  }

  // max |got - want| over pairs of elements.
  void compare(const std::string& name, const std::vector<double>& got,
               const std::vector<double>& want) {
    require(got.size() == want.size(), "{}: {} holds {} numbers; wanted {}", path_, name,
            want.size(), got.size());
    double absolute = 0;
    double largest = 0;
    for (std::size_t i = 0; i < want.size(); ++i) {
      const double difference = std::abs(got[i] - want[i]);
      if (!(difference <= absolute)) absolute = difference;
      if (std::isnan(difference)) absolute = std::numeric_limits<double>::infinity();
      largest = std::max(largest, std::abs(want[i]));
    }
    const double relative = largest > 0 ? absolute / largest : absolute;
    report_.comparisons.push_back({name, absolute, relative, relative <= options_.tolerance});
  }

  static std::vector<double> numbers(const Tensor& t) {
    const Tensor wide = t.to({}).cast(DType::f64);
    return {wide.data<double>(), wide.data<double>() + wide.count()};
  }

  void compare_tensor(const std::string& name, const Tensor& got) {
    const Tensor want = expected_.tensor(name);
    require(want.shape() == got.shape(), "{}: {} is {}; the model's is {}", path_, name,
            want.shape().text(), got.shape().text());
    compare(name, numbers(got), numbers(want));
  }

  void compare_logits(const Tensor& got) {
    const Tensor want = expected_.tensor("logits");
    const Shape wanted = {batch_of(prompt_.offsets), length_, config_.vocab_size};
    require(want.shape() == wanted, "{}: logits is {}; wanted {}", path_, want.shape().text(),
            wanted.text());
    const Tensor flat = want.reshape({wanted[0] * wanted[1], wanted[2]});
    const Tensor real = Tensor::uninitialized(got.shape(), want.dtype());
    for (std::int64_t i = 0; i < got.size(0); ++i) {
      real.row(i).copy_from(flat.row(prompt_.rows[static_cast<std::size_t>(i)]));
    }
    const auto values = numbers(real);
    compare("logits", numbers(got), values);
    for (const double x : values) largest_logit_ = std::max(largest_logit_, std::abs(x));
  }

  // Logits at every position, and the states after the prompt.
  Variable compare_forward(const LanguageModel& model, Tape& tape) {
    CarriedState carried(static_cast<std::size_t>(config_.layers));
    State state;
    if (!config_.bidirectional) {
      state = State(config_, batch_of(prompt_.offsets), model.dtype(), model.device());
      for (std::size_t i = 0; i < carried.size(); ++i) {
        carried[i].recurrent.after = Variable::constant(state.layers()[i].recurrent);
        if (state.layers()[i].conv.defined()) {
          carried[i].conv.after = Variable::constant(state.layers()[i].conv);
        }
      }
    } else {
      carried.clear();
    }
    const Variable hidden = model.hidden(tape, prompt_.batch(), carried, &training_);
    compare_logits(model.logits(arena_, hidden.value()));
    for (std::size_t i = 0; i < state.layers().size(); ++i) {
      const std::string s = fmt::format("state.{}", i);
      const std::string c = fmt::format("conv_state.{}", i);
      if (expected_.contains(s)) compare_tensor(s, state.layers()[i].recurrent);
      if (expected_.contains(c) && state.layers()[i].conv.defined()) {
        compare_tensor(c, state.layers()[i].conv);
      }
    }
    return hidden;
  }

  void compare_logits_and_states(const LanguageModel& model) {
    Tape tape(arena_, Tape::Mode::compute);
    compare_forward(model, tape);
  }

  void compare_training() {
    parameters_.allocate_gradients();
    const LanguageModel model(config_, parameters_);
    Tape tape(arena_, Tape::Mode::record);
    const Variable hidden = compare_forward(model, tape);
    // Each token's label is the next of its sequence.
    std::vector<std::int32_t> labels(prompt_.ids.size(), -100);
    std::int64_t count = 0;
    for (std::size_t b = 0; b + 1 < prompt_.offsets.size(); ++b) {
      for (auto i = prompt_.offsets[b]; i + 1 < prompt_.offsets[b + 1]; ++i, ++count) {
        labels[static_cast<std::size_t>(i)] = prompt_.ids[static_cast<std::size_t>(i) + 1];
      }
    }
    const Tensor sums = cross_entropy::zero_sums(model.device());
    functions::cross_entropy(tape, hidden, model.head(), labels, 1 / static_cast<double>(count),
                             sums);
    const auto result = cross_entropy::read(sums);
    tape.backward();
    compare("loss", {result.loss / static_cast<double>(count)}, numbers(expected_.tensor("loss")));
    for (const auto& [name, gradient] : parameters_.gradients()) {
      if (expected_.contains("grad." + name)) compare_tensor("grad." + name, gradient);
    }
  }

  void compare_greedy() {
    if (!expected_.contains("greedy") || config_.bidirectional) return;
    const Tensor ids = expected_.tensor("greedy");
    const Tensor margins = expected_.tensor("greedy_margin").cast(DType::f64);
    const std::int64_t sequences = batch_of(prompt_.offsets);
    require(ids.rank() == 2 && ids.size(0) == sequences && ids.dtype() == DType::i64 &&
                margins.shape() == ids.shape(),
            "{}: greedy and greedy_margin must be [{}, G], greedy i64", path_, sequences);
    const Parameters plain(parameters_.tensors());
    const LanguageModel model(config_, plain);
    State state(config_, sequences, model.dtype(), model.device());
    model.advance(arena_, prompt_.batch(), state);
    std::vector<std::int64_t> one_each;
    for (std::int64_t b = 0; b <= sequences; ++b) one_each.push_back(b);
    for (std::int64_t step = 0; step < ids.size(1); ++step) {
      std::vector<std::int32_t> next;
      for (std::int64_t b = 0; b < sequences; ++b) {
        const auto at = b * ids.size(1) + step;
        const auto want = ids.data<std::int64_t>()[at];
        require(want >= 0 && want < config_.vocab_size, "{}: greedy holds {}; vocab_size is {}",
                path_, want, config_.vocab_size);
        const auto logits = numbers(state.logits().row(b));
        const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
        if (margins.data<double>()[at] > greedy_margin_share * largest_logit_) {
          ++report_.greedy_compared;
          if (best == want) ++report_.greedy_equal;
        }
        next.push_back(static_cast<std::int32_t>(want));
      }
      model.advance(arena_, {next, one_each}, state);
    }
  }

  VerifyOptions options_;
  std::string path_;
  SafetensorsFile expected_;
  Config config_;
  Parameters parameters_;
  Prompt prompt_;
  std::int64_t length_ = 0;
  double largest_logit_ = 0;
  Arena arena_;
  // The expected gradients come from Hugging Face's embedding, which leaves out the padding row.
  TrainingOptions training_ = {.freeze_padding = true};
  VerifyReport report_;
};

}  // namespace

VerifyReport verify(const std::string& folder, const VerifyOptions& options) {
  require(options.dtype == DType::f32 || options.dtype == DType::f64,
          "verify: computes in f32 or f64, not {}", name_of(options.dtype));
  return Verification(folder, options).run();
}

}  // namespace metala
