#include "metala/train/flops.h"

#include "metala/model/checkpoint.h"

namespace metala {

double training_flops_per_token(const Config& c) {
  constexpr double chunk = 64;  // of metala_attention's fast forms
  double elements = 0;
  for (const auto& t : expected_tensors(c)) {
    const bool looked_up = !c.tie_word_embeddings && t.name == "model.embed_tokens.weight";
    if (t.shape.rank() == 2 && !looked_up) elements += static_cast<double>(t.shape.count());
  }
  const double state = 4 * static_cast<double>(c.key_width() * c.value_width() * c.heads);
  const double within = chunk * static_cast<double>(c.query_width + c.width);
  return 6 * elements + 3 * static_cast<double>(c.layers) * (state + within);
}

}  // namespace metala
