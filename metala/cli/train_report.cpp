#include "metala/cli/train_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "metala/base/half.h"
#include "metala/device/open_device.h"
#include "metala/generate/generator.h"
#include "metala/generate/text_stream.h"
#include "metala/train/flops.h"
#include "metala/train/plot.h"

namespace metala::cli {

TrainReport::TrainReport(const TrainCommand& options, int ranks, std::int64_t step,
                         const Tokenizer* tokenizer)
    : o_(options),
      ranks_(ranks),
      tokenizer_(tokenizer),
      metrics_(o_.output, step),
      bar_("training", static_cast<double>(o_.steps), "tok"),
      flops_per_token_(training_flops_per_token(o_.config)) {
  const double known = is_half(o_.trainer.dtype) ? peak_tflops(name_of(o_.trainer.device)) : 0;
  peak_flops_ = 1e12 * (o_.peak_tflops > 0 ? o_.peak_tflops : known);
}

void TrainReport::stepped(const StepReport& r, const LanguageModel& model) {
  tokens_ += r.tokens;
  record(r);
  bar_.update(static_cast<double>(r.step), fmt::format("step {} loss {:.3f}", r.step, r.loss),
              static_cast<double>(tokens_));
  if (r.unlabelled) {
    bar_.say(fmt::format("step {:>6}  left out: none of its tokens has a label", r.step));
    return;
  }
  if (o_.log_every > 0 && r.step % o_.log_every == 0) log(r);
  if (r.skipped) {
    bar_.say(
        fmt::format("step {:>6}  left out: loss {:.4f} (z {:.1f}), gradient norm {:.3f} (z {:.1f})",
                    r.step, r.loss, r.loss_z, r.gradient_norm, r.norm_z));
  }
  if (r.overflowed) {
    bar_.say(fmt::format("step {:>6}  left out: its gradients overflow at a loss scale of {}",
                         r.step, r.loss_scale));
  }
  if (o_.sample_every > 0 && r.step % o_.sample_every == 0) sample(model);
}

void TrainReport::validated(const ValidationReport& r) {
  MetricValues values = {{"validation/lm_loss", r.loss},
                         {"validation/lm_loss_ppl", r.perplexity},
                         {"validation/accuracy", r.accuracy}};
  std::string line = fmt::format("step {:>6}  validation loss {:.4f}", r.step, r.loss);
  if (o_.task == "mqar") {
    line += fmt::format("  accuracy {:5.1f}%", 100 * r.accuracy);
  } else {
    line += fmt::format("  perplexity {:.2f}  next token right {:.1f}%", r.perplexity,
                        100 * r.accuracy);
  }
  if (r.bits_per_byte > 0) {
    values.emplace_back("validation/bits_per_byte", r.bits_per_byte);
    line += fmt::format("  {:.3f} bits/byte", r.bits_per_byte);
  }
  metrics_.record(r.step, values);
  bar_.say(line);
}

void TrainReport::tested(const ValidationReport& r) {
  metrics_.record(r.step, {{"test/lm_loss", r.loss}, {"test/lm_loss_ppl", r.perplexity}});
  bar_.say(
      fmt::format("step {:>6}  test loss {:.4f}  perplexity {:.2f}", r.step, r.loss, r.perplexity));
}

double TrainReport::flops_per_second(const StepReport& r) const {
  return flops_per_token_ * static_cast<double>(r.tokens) / r.seconds / static_cast<double>(ranks_);
}

void TrainReport::record(const StepReport& r) {
  MetricValues values = {{"train/lm_loss", r.loss},
                         {"train/learning_rate", r.learning_rate},
                         {"train/gradient_norm", r.gradient_norm},
                         {"runtime/tokens_per_sec", static_cast<double>(r.tokens) / r.seconds},
                         {"runtime/iteration_time", r.seconds},
                         {"runtime/flops_per_sec_per_gpu", flops_per_second(r)}};
  if (peak_flops_ > 0) {
    values.emplace_back("runtime/model_flops_utilization", flops_per_second(r) / peak_flops_);
  }
  if (r.skipped || r.overflowed || r.unlabelled) values.emplace_back("train/skipped", 1);
  if (o_.trainer.scaling.on) values.emplace_back("train/loss_scale", r.loss_scale);
  metrics_.record(r.step, values);
}

void TrainReport::log(const StepReport& r) {
  std::string line = fmt::format(
      "iteration {}/{} | elapsed time per iteration (ms): {:.1f} | learning rate: {:.3E} | "
      "lm_loss: {:.6E} | gradient norm: {:.4f} | tokens/sec: {:.0f} | TFLOP/s: {:.3g}",
      r.step, o_.steps, 1000 * r.seconds, r.learning_rate, r.loss, r.gradient_norm,
      static_cast<double>(r.tokens) / r.seconds, flops_per_second(r) / 1e12);
  if (o_.trainer.scaling.on) line += fmt::format(" | loss scale: {}", r.loss_scale);
  if (peak_flops_ > 0)
    line += fmt::format(" | MFU: {:.1f}%", 100 * flops_per_second(r) / peak_flops_);
  bar_.say(line);
}

void TrainReport::sample(const LanguageModel& model) {
  if (tokenizer_ == nullptr) return;
  const Config& config = model.config();
  auto prompt = tokenizer_->encode(o_.sample_prompt);
  if (prompt.empty()) {  // as a document begins: behind the end of another
    prompt = {config.eos_token_ids.empty() ? config.bos_token_id : config.eos_token_ids.front()};
    if (prompt.front() < 0) return;
  }
  Arena arena(model.device());
  State state(config, 1, DType::f32, model.device());
  const std::vector<std::int64_t> whole = {0, static_cast<std::int64_t>(prompt.size())};
  model.advance(arena, {prompt, whole}, state);
  GenerationOptions generation;
  generation.max_tokens = 60;
  generation.sampling.temperature = 0.8;
  generation.sampling.top_p = 0.95;
  generation.end_ids = config.eos_token_ids;
  Generator generator(model, state, {prompt}, generation);
  TextStream stream(*tokenizer_, {});
  std::string text = o_.sample_prompt;
  while (!generator.done()) {
    for (const auto& token : generator.next()) text += stream.push(token.id);
  }
  text += stream.flush();
  std::replace(text.begin(), text.end(), '\n', ' ');
  bar_.say("  | " + text);
}

void TrainReport::write_curve() const {
  const std::string metrics = o_.output + "/metrics.jsonl";
  Plot plot;
  plot.title = "Loss of " + std::filesystem::path(o_.output).filename().string();
  plot.x_label = "step";
  plot.y_label = "loss (nats a token)";
  plot.curves.push_back({"training", read_metric(metrics, "train/lm_loss")});
  plot.curves.push_back({"validation", read_metric(metrics, "validation/lm_loss")});
  write_svg(plot, o_.output + "/loss.svg");
}

void TrainReport::saved(std::int64_t step, double stall_seconds) {
  metrics_.record(step, {{"runtime/save_stall_seconds", stall_seconds}});
}

void TrainReport::finish() {
  bar_.finish();
  write_curve();
}

}  // namespace metala::cli
